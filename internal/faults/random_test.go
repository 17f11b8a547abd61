//go:build faults

package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// envSeed repeats the faults of a run; their moments are never the same.
const envSeed = "PULSEFLOW_FAULTS_SEED"

// randomFor is how long TestRandomFaults does harm.
const randomFor = 45 * time.Second

// TestRandomFaults hurts three consumers and their server in any order, often while what
// the last fault has done is still being mended.
func TestRandomFaults(t *testing.T) {
	for name, tt := range map[string]struct {
		// severe faults make a consumer that lives lose its lease, or the group: then entries may be
		// run again while they run, which docs/delivery.md says.
		severe bool
	}{"leases are kept": {false}, "leases and groups are lost": {true}} {
		t.Run(name, func(t *testing.T) { random(t, tt.severe) })
	}
}

func random(t *testing.T, severe bool) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv(envSeed); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%s=%d", envSeed, seed)
	dice := rand.New(rand.NewPCG(seed, 0))
	f := setUp(t)
	lives := 0
	spawn := func() *child {
		lives++
		return f.spawn(fmt.Sprintf("life-%d", lives))
	}
	consumers := []*child{spawn(), spawn(), spawn()}
	pause := func(longest time.Duration) { time.Sleep(time.Duration(dice.Int64N(int64(longest)))) }
	standStill := func(longest time.Duration) {
		c := consumers[dice.IntN(len(consumers))]
		f.signal(c, syscall.SIGSTOP)
		pause(longest)
		f.signal(c, syscall.SIGCONT)
	}
	hang := func(longest time.Duration) {
		f.server.Pause()
		pause(longest)
		f.server.Resume()
	}
	type fault struct {
		name string
		do   func()
	}
	faults := []fault{
		{"a consumer is killed", func() {
			i := dice.IntN(len(consumers))
			f.kill(consumers[i])
			pause(time.Second)
			consumers[i] = spawn()
		}},
		{"a consumer is shut down", func() {
			i := dice.IntN(len(consumers))
			f.stop(consumers[i])
			pause(time.Second)
			consumers[i] = spawn()
		}},
		{"a consumer stands still", func() { standStill(700 * time.Millisecond) }},
		{"the server restarts", func() {
			f.server.Kill()
			pause(500 * time.Millisecond)
			f.server.Restart()
		}},
		{"the server hangs", func() { hang(700 * time.Millisecond) }},
	}
	if severe {
		faults = append(faults,
			fault{"the group is destroyed", func() {
				// It may not have been made again since the last time.
				_ = f.client.XGroupDestroy(context.Background(), stream, group).Err()
			}},
			fault{"a consumer stands still for long", func() { standStill(5 * time.Second) }},
			fault{"the server hangs for long", func() { hang(5 * time.Second) }},
		)
	}
	done := make(map[string]int)
	for end := time.Now().Add(randomFor); time.Now().Before(end); {
		f.produce(500 + dice.IntN(3000))
		pause(time.Second)
		fault := faults[dice.IntN(len(faults))]
		done[fault.name]++
		fault.do()
	}
	t.Logf("%v", done)
	f.produce(1000)
	f.eventually("all to be applied", func() bool { return f.applied() == f.produced })
	f.drained()
	for _, c := range consumers {
		f.stop(c)
	}
	if severe {
		f.oracle.Del(context.Background(), "conflicts")
	}
	f.account(0)
}

// signal signals a consumer's process.
func (f *fixture) signal(c *child, sig syscall.Signal) {
	f.t.Helper()
	if err := c.cmd.Process.Signal(sig); err != nil {
		f.t.Fatal(err)
	}
}
