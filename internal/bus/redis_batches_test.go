package bus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

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
		cmd, done := b.add(ctx, &redis.XAddArgs{Stream: stream, Values: []any{fieldData, data}}, len(data))
		waiting.Go(func() {
			<-done
			if err := cmd.Err(); (err != nil) != (stream == "text") {
				t.Errorf("entry %d: %v", i, err)
			}
		})
	}
	b.close()
	waiting.Wait()
	b.close() // again
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
	cmd, done := b.add(ctx, &redis.XAddArgs{Stream: "s", Values: []any{fieldData, "late"}}, 4)
	<-done
	if err := cmd.Err(); !errors.Is(err, ErrClosed) {
		t.Errorf("after close: %v", err)
	}
}

// What cannot be sent has its error within the time of a call, and holds nothing up for good.
func TestAddBatchesWithoutAServer(t *testing.T) {
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1, DialerRetries: 1})
	defer client.Close()
	b := newAddBatches(client)
	defer b.close()
	for range 3 {
		cmd, done := b.add(context.Background(), &redis.XAddArgs{Stream: "s", Values: []any{fieldData, "x"}}, 1)
		<-done
		if cmd.Err() == nil {
			t.Error("written without a server")
		}
	}
}
