package bus

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mjdevaccount/pulseflow/internal/redistest"
)

func TestSingleEntries(t *testing.T) {
	ctx := context.Background()
	type store interface {
		Newest(ctx context.Context, stream string, n int) ([]Entry, error)
		Entry(ctx context.Context, stream, id string) (Entry, error)
		Delete(ctx context.Context, stream, id string) error
	}
	check := func(t *testing.T, s store, put func(data string) string) {
		ids := make(map[string]string)
		for i := range 5 {
			data := fmt.Sprint(i)
			ids[data] = put(data)
		}
		held := func() []string {
			t.Helper()
			entries, err := s.Newest(ctx, "dlq", 10)
			if err != nil {
				t.Fatal(err)
			}
			list := []string{}
			for _, e := range entries {
				list = append(list, e.Fields["data"])
			}
			return list
		}
		if e, err := s.Entry(ctx, "dlq", ids["2"]); err != nil || e.ID != ids["2"] || e.Fields["data"] != "2" {
			t.Errorf("entry 2: %+v, %v", e, err)
		}
		for _, bad := range []string{"9999999999999-0", "nonsense"} {
			if _, err := s.Entry(ctx, "dlq", bad); !errors.Is(err, ErrNoEntry) {
				t.Errorf("entry %s: %v, want ErrNoEntry", bad, err)
			}
		}
		for _, data := range []string{"3", "1"} {
			if err := s.Delete(ctx, "dlq", ids[data]); err != nil {
				t.Fatalf("delete %s: %v", data, err)
			}
		}
		if diff := cmp.Diff([]string{"4", "2", "0"}, held()); diff != "" {
			t.Errorf("left (-want +got):\n%s", diff)
		}
		if err := s.Delete(ctx, "dlq", ids["3"]); !errors.Is(err, ErrNoEntry) {
			t.Errorf("delete again: %v, want ErrNoEntry", err)
		}
		if err := s.Delete(ctx, "nothing", "1-0"); !errors.Is(err, ErrNoEntry) {
			t.Errorf("delete from a stream that is not there: %v, want ErrNoEntry", err)
		}
		put("5")
		put("6")
		if diff := cmp.Diff([]string{"6", "5", "4", "2", "0"}, held()); diff != "" {
			t.Errorf("after two more (-want +got):\n%s", diff)
		}
	}
	t.Run("inmem", func(t *testing.T) {
		m, err := NewInMemory(InMemoryConfig{DeadLetterBuffer: 5})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = m.Close(ctx) })
		m.RetainDeadLetters("dlq")
		check(t, m, func(data string) string {
			id, err := m.Put(ctx, "dlq", []byte(data), nil, false)
			if err != nil {
				t.Fatal(err)
			}
			return id
		})
		// The ring, once it has gone round, keeps its order through a removal.
		if _, err := m.Put(ctx, "dlq", []byte("7"), nil, false); err != nil {
			t.Fatal(err)
		}
		entries, err := m.Newest(ctx, "dlq", 5)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Delete(ctx, "dlq", entries[2].ID); err != nil {
			t.Fatal(err)
		}
		if entries, _ = m.Newest(ctx, "dlq", 5); len(entries) != 4 || entries[0].Fields["data"] != "7" || entries[3].Fields["data"] != "2" {
			t.Errorf("left %v", entries)
		}
	})
	t.Run("redis", func(t *testing.T) {
		r, err := NewRedis(RedisConfig{URL: redistest.Start(t).URL()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = r.Close(ctx) })
		check(t, r, func(data string) string {
			id, err := r.Put(ctx, "dlq", []byte(data), nil)
			if err != nil {
				t.Fatal(err)
			}
			return id
		})
	})
}
