package bus

import (
	"context"
	"runtime"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// addBytes is how much data a batch of XADDs has before another begins, so that a slow link can take each in time.
const addBytes = 1 << 20

// addYields is how often the others go first before a batch is sent. With one lane each that waits for an answer and
// then runs its next event, 3 made batches a third larger than 1 did; 8 gained no more.
const addYields = 3

// addBatches sends XADDs in the order they come, one batch at a time: while one is on its way, the next collects. See
// docs/adr/0007-announcements.md for why it is not go-redis's automatic pipeline.
type addBatches struct {
	client redis.UniversalClient

	mu     sync.Mutex
	queue  []*addBatch // the last one may still collect
	closed bool

	some  chan struct{} // one token when the queue stops being empty; closed to end
	ended chan struct{}

	base context.Context // of what is sent
	drop context.CancelFunc
}

type addBatch struct {
	pipe  redis.Pipeliner
	bytes int
	began time.Time     // when its first command was added
	done  chan struct{} // closed: its commands have their results
}

func newAddBatches(client redis.UniversalClient) *addBatches {
	b := &addBatches{client: client, some: make(chan struct{}, 1), ended: make(chan struct{})}
	b.base, b.drop = context.WithCancel(context.Background())
	go b.run()
	return b
}

// add takes an XADD of about size bytes to be sent. The command has its result once done is closed.
func (b *addBatches) add(a *redis.XAddArgs, size int) (cmd *redis.StringCmd, done <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return refusedAdd(ErrClosed)
	}
	if last := len(b.queue) - 1; last < 0 || b.queue[last].bytes >= addBytes {
		b.queue = append(b.queue, &addBatch{pipe: b.client.Pipeline(), began: time.Now(), done: make(chan struct{})})
		if last < 0 {
			notify(b.some)
		}
	}
	batch := b.queue[len(b.queue)-1]
	batch.bytes += size
	return batch.pipe.XAdd(b.base, a), batch.done
}

// refusedAdd is what add returns for a command that is not sent.
func refusedAdd(err error) (cmd *redis.StringCmd, done <-chan struct{}) {
	cmd = redis.NewStringCmd(context.Background())
	cmd.SetErr(err)
	closed := make(chan struct{})
	close(closed)
	return cmd, closed
}

func (b *addBatches) run() {
	defer close(b.ended)
	hangs := false // the server did not answer the last batch
	for range b.some {
		for {
			// Let those go first who are about to add: a batch costs a round trip, of whatever size it is.
			for range addYields {
				runtime.Gosched()
			}
			batch := b.next()
			if batch == nil {
				break
			}
			since := time.Now()
			if hangs {
				since = batch.began // or those that wait behind it would wait as long again, each
			}
			hangs = !b.send(batch, since.Add(publishTimeout))
		}
	}
}

// next takes the first batch out of the queue, nil when there is none.
func (b *addBatches) next() *addBatch {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.queue) == 0 {
		return nil
	}
	batch := b.queue[0]
	b.queue[0] = nil
	b.queue = b.queue[1:]
	return batch
}

// send sends a batch and reports whether the server answered all of it. Its commands have their own errors.
func (b *addBatches) send(batch *addBatch, deadline time.Time) (answered bool) {
	ctx, cancel := context.WithDeadline(b.base, deadline)
	defer cancel()
	defer close(batch.done)
	cmds, err := batch.pipe.Exec(ctx)
	if err == nil || isAnswer(err) {
		return true
	}
	for _, cmd := range cmds {
		switch add, ok := cmd.(*redis.StringCmd); {
		case ok && add.Val() != "":
			add.SetErr(nil) // the client gives the error to those too that were answered before it
		case b.base.Err() != nil:
			cmd.SetErr(ErrClosed)
		}
	}
	return false
}

// close sends what was added, as far as that takes no longer than finalTimeout, and ends. disconnect closes the
// client's connections: nothing else ends a call to a server that hangs.
func (b *addBatches) close(disconnect func() error) error {
	b.mu.Lock()
	if !b.closed {
		b.closed = true
		close(b.some)
	}
	b.mu.Unlock()
	late := time.NewTimer(finalTimeout)
	defer late.Stop()
	select {
	case <-b.ended:
	case <-late.C:
	}
	b.drop()
	err := disconnect()
	<-b.ended
	return err
}
