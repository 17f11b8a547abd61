package bus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/redis/go-redis/v9"

	"github.com/mjdevaccount/pulseflow/internal/redistest"
)

// Entries are written in the order they were taken, whoever waits for them when, and a
// command that fails fails alone.
func TestAddBatchesKeepOrder(t *testing.T) {
	client := redistest.Start(t).Client(t)
	ctx := t.Context()
	if err := client.Set(ctx, "text", "x", 0).Err(); err != nil {
		t.Fatal(err)
	}
	b := newAddBatches(client)
	const n = 5000
	var waiting sync.WaitGroup
	large := bytes.Repeat([]byte{'x'}, addBytes/100)
	for i := range n {
		stream, data := "s", []byte(fmt.Sprint(i))
		switch i % 10 {
		case 3:
			stream = "text" // of the wrong type
		case 5:
			data = append(append(data, ' '), large...) // so that there are batches that are full
		}
		cmd, done := b.add(&redis.XAddArgs{Stream: stream, Values: []any{fieldData, data}}, len(data))
		waiting.Go(func() {
			<-done
			if err := cmd.Err(); (err != nil) != (stream == "text") {
				t.Errorf("entry %d: %v", i, err)
			}
		})
	}
	noEnd := func() error { return nil }
	_ = b.close(noEnd)
	waiting.Wait()
	_ = b.close(noEnd) // again
	entries, err := client.XRange(ctx, "s", "-", "+").Result()
	if err != nil || len(entries) != n-n/10 {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	last := -1
	for _, e := range entries {
		var i int
		if _, err := fmt.Sscan(e.Values[fieldData].(string), &i); err != nil || i <= last {
			t.Fatalf("entry %d after %d, %v", i, last, err)
		}
		last = i
	}
	cmd, done := b.add(&redis.XAddArgs{Stream: "s", Values: []any{fieldData, "late"}}, 4)
	<-done
	if err := cmd.Err(); !errors.Is(err, ErrClosed) {
		t.Errorf("after close: %v", err)
	}
}

// What cannot be sent has its error within the time of a call, and holds nothing up for good.
func TestAddBatchesWithoutAServer(t *testing.T) {
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1, DialerRetries: 1})
	b := newAddBatches(client)
	defer b.close(client.Close)
	for range 3 {
		cmd, done := b.add(&redis.XAddArgs{Stream: "s", Values: []any{fieldData, "x"}}, 1)
		<-done
		if cmd.Err() == nil {
			t.Error("written without a server")
		}
	}
}

// A server that hangs holds the end up for no longer than finalTimeout, whatever is still to be sent.
func TestRedisClosesWhileTheServerHangs(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	r, err := NewRedis(RedisConfig{URL: srv.URL()})
	if err != nil {
		t.Fatal(err)
	}
	publish := func(size int) error {
		return r.Publisher().Publish("out", message.NewMessage("", make([]byte, size)))
	}
	if err := publish(1); err != nil {
		t.Fatal(err)
	}
	srv.Pause()
	defer srv.Resume()
	var publishing sync.WaitGroup
	for range 4 {
		publishing.Go(func() {
			if err := publish(2 * addBytes); err == nil {
				t.Error("published while the server hung")
			} else if u := new(operation); !errors.As(err, &u) || !u.Unavailable() || !errors.Is(err, ErrClosed) {
				t.Errorf("%v, want one that says that the bus is closed", err)
			}
		})
	}
	until(t, "batches wait", func() bool {
		b := r.publish.writer.batches
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.queue) == 3
	})
	began := time.Now()
	if err := r.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > finalTimeout+500*time.Millisecond {
		t.Errorf("closed after %v", took)
	}
	publishing.Wait()
}

// A connection that breaks among the answers takes none of those back that have come.
func TestAddBatchesKeepWhatWasAnswered(t *testing.T) {
	srv := redistest.Start(t)
	client := redis.NewClient(&redis.Options{
		MaxRetries: -1, DialerRetries: 1, DisableIdentity: true, Protocol: 2,
		Dialer: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", srv.Addr())
			return &breakingConn{Conn: conn, left: 1000}, err // what greets it, and answers of about 22 bytes each
		},
	})
	const n = 100
	batch := &addBatch{pipe: client.Pipeline(), done: make(chan struct{})}
	cmds := make([]*redis.StringCmd, n)
	for i := range cmds {
		cmds[i] = batch.pipe.XAdd(t.Context(), &redis.XAddArgs{Stream: "s", Values: []any{fieldData, fmt.Sprint(i)}})
	}
	b := newAddBatches(client)
	defer b.close(client.Close)
	if b.send(batch, time.Now().Add(publishTimeout)) {
		t.Error("a broken connection counts as an answer")
	}
	written := 0
	for i, cmd := range cmds {
		if id, err := cmd.Result(); (err == nil) != (id != "") {
			t.Errorf("entry %d: id %q, %v", i, id, err)
		} else if err == nil {
			written++
		}
	}
	if written == 0 || written == n {
		t.Errorf("%d of %d entries count as written: %v", written, n, cmds[n-1].Err())
	}
}

// breakingConn fails once so many bytes were read.
type breakingConn struct {
	net.Conn
	left int
}

func (c *breakingConn) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := c.Conn.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

// Behind a batch that the server did not take in time, the others do not wait that long each.
func TestAddBatchesDoNotQueueForAServerThatHangs(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	r := newRig(t, srv.URL())
	b := r.publish.writer.batches
	srv.Pause()
	began := time.Now()
	var last <-chan struct{}
	for range 8 {
		_, last = b.add(&redis.XAddArgs{Stream: "s", Values: []any{fieldData, make([]byte, addBytes)}}, addBytes)
	}
	<-last
	if took := time.Since(began); took > publishTimeout+time.Second {
		t.Errorf("the last one was told after %v", took)
	}
	srv.Resume()
	until(t, "it is written again", func() bool {
		return r.Publisher().Publish("s", message.NewMessage("", message.Payload("x"))) == nil
	})
}
