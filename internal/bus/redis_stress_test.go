//go:build stress

package bus

import (
	"context"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"

	"github.com/mjdevaccount/pulseflow/internal/redistest"
)

// TestRedisUniversalStress runs Watermill's suite many times at once, on one server.
// STRESS_TEST_COUNT says how many; Watermill's default is 10.
func TestRedisUniversalStress(t *testing.T) {
	for name, lanes := range map[string]int{"one lane": 1, "lanes": 8} {
		t.Run(name, func(t *testing.T) {
			ofGroup := universal(t, redistest.Start(t), lanes)
			tests.TestPubSubStressTest(t, universalFeatures(lanes), func(t *testing.T) (message.Publisher, message.Subscriber) {
				return ofGroup(t, "universal")
			}, ofGroup)
		})
	}
}

// TestRedisReconnect is the suite's test of a server that restarts while messages
// are published. It stands here because the suite's own code has a data race, so it
// cannot run under the race detector.
func TestRedisReconnect(t *testing.T) {
	server := redistest.Start(t, redistest.WithAOF())
	// The suite restarts the service by a command: this one signals this process.
	restart := make(chan os.Signal, 2)
	signal.Notify(restart, syscall.SIGUSR1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range restart {
			server.Kill()
			time.Sleep(200 * time.Millisecond)
			server.Restart()
		}
	}()
	t.Cleanup(func() {
		signal.Stop(restart)
		close(restart)
		<-done
	})
	features := universalFeatures(8)
	features.RestartServiceCommand = []string{"kill", "-USR1", strconv.Itoa(os.Getpid())}
	ofGroup := universal(t, server, 8)
	tests.TestReconnect(t, tests.TestContext{TestID: tests.NewTestID(), Features: features},
		func(t *testing.T) (message.Publisher, message.Subscriber) {
			publisher, subscriber := ofGroup(t, "universal")
			return publisher, lastHeldBack{subscriber}
		})
}

// reconnectMessages is how many messages tests.TestReconnect publishes.
const reconnectMessages = 10_000

// lastHeldBack hands over the last message of tests.TestReconnect a moment late. The
// suite notes a message as sent once Publish has returned, and compares as soon as it
// has read as many as it sends: a message that arrives before the answer to its XADD
// would be one that was received and never sent.
type lastHeldBack struct{ message.Subscriber }

func (s lastHeldBack) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	messages, err := s.Subscriber.Subscribe(ctx, topic)
	if err != nil {
		return nil, err
	}
	late := make(chan *message.Message)
	go func() {
		defer close(late)
		seen := make(map[string]struct{}, reconnectMessages)
		for msg := range messages {
			seen[msg.UUID] = struct{}{}
			if len(seen) == reconnectMessages {
				time.Sleep(time.Second)
			}
			late <- msg
		}
	}()
	return late, nil
}
