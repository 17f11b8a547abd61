package bus

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mjdevaccount/pulseflow/internal/redistest"
)

func newRegisters(t *testing.T, url string) *RedisRegisters {
	t.Helper()
	r, err := NewRedis(RedisConfig{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close(context.Background()) })
	return r.Registers()
}

type raised struct {
	More          map[string]string
	Before, After int64
}

func TestRegisters(t *testing.T) {
	server := redistest.Start(t)
	ctx := context.Background()
	a, b := newRegisters(t, server.URL()), newRegisters(t, server.URL())
	const key = "mdp:pulseflow:rates:ibkr"
	values := func(pairs ...string) map[string]string {
		m := make(map[string]string)
		for i := 0; i < len(pairs); i += 2 {
			m[pairs[i]] = pairs[i+1]
		}
		return m
	}
	if registers, epoch, version, err := a.Read(ctx, key); len(registers) != 0 || epoch != "" || version != 0 || err != nil {
		t.Errorf("a hash that is not there: %v, %q, %d, %v", registers, epoch, version, err)
	}
	var epochs []string
	for i, step := range []struct {
		by           *RedisRegisters
		values, drop map[string]string
		want         raised
	}{
		{a, values("x", "101", "y", "102"), nil, raised{values(), 0, 1}},
		{b, values("x", "100"), nil, raised{values("x", "101"), 1, 1}},
		{b, values("x", "101"), nil, raised{values(), 1, 1}},
		{a, values("x", "103", "y", "101", "", "999"), nil, raised{values("y", "102"), 1, 2}},
		{b, nil, values("x", "101", "y", "102", "version", "2", "z", "1"), raised{values(), 2, 2}},
		{b, values("epoch", "111", "version", "222"), nil, raised{values(), 2, 3}},
	} {
		more, epoch, before, after, err := step.by.Raise(ctx, key, 3, step.values, step.drop)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(step.want, raised{more, before, after}); diff != "" {
			t.Errorf("step %d (-want +got):\n%s", i, diff)
		}
		epochs = append(epochs, epoch)
	}
	for _, e := range epochs {
		if e == "" || e != epochs[0] {
			t.Fatalf("epochs %q", epochs)
		}
	}
	registers, epoch, version, err := b.Read(ctx, key)
	if diff := cmp.Diff(values("x", "103", "", "999", "epoch", "111", "version", "222"), registers); diff != "" || epoch != epochs[0] || version != 3 || err != nil {
		t.Errorf("%q, %d, %v (-want +got):\n%s", epoch, version, err, diff)
	}
	gotEpochs, versions, err := b.Versions(ctx, []string{key, "other"})
	if diff := cmp.Diff([]int64{3, 0}, versions); diff != "" || gotEpochs[0] != epoch || gotEpochs[1] != "" || err != nil {
		t.Errorf("%v, %v (-want +got):\n%s", gotEpochs, err, diff)
	}

	// What is no value counts as none, and a hash made anew has an epoch of its own.
	client := server.Client(t)
	client.HSet(ctx, key, ":x", "999 or so", ":y", "9999")
	if more, _, _, _, err := a.Raise(ctx, key, 3, values("x", "001", "y", "002"), nil); len(more) != 0 || err != nil {
		t.Errorf("more %v, %v", more, err)
	}
	client.FlushAll(ctx)
	if _, epoch, _, _, err := b.Raise(ctx, key, 3, values("x", "001"), nil); epoch == epochs[0] || err != nil {
		t.Errorf("epoch %q as before, %v", epoch, err)
	}
	client.Del(ctx, key)
	client.Set(ctx, key, "text", 0)
	for what, err := range map[string]error{
		"raise": errOf(a.Raise(ctx, key, 3, values("x", "001"), nil)),
		"check": a.Check(ctx, []string{"other"}),
	} {
		if (err == nil) != (what == "check") {
			t.Errorf("%s: %v", what, err)
		}
		if err != nil && !strings.Contains(err.Error(), "holds something that is not a hash") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if n := client.Exists(ctx, "other").Val(); n != 0 {
		t.Error("a check has made a key")
	}
}

func errOf(_ map[string]string, _ string, _, _ int64, err error) error { return err }

// What a user lacks is named, and nothing is changed by asking.
func TestRegistersNamePermissions(t *testing.T) {
	const all = " resetkeys ~mdp:* +hget +hset +hdel +hincrby +hgetall +hmget +eval +evalsha"
	for name, tt := range map[string]struct{ rule, want string }{
		"all":        {all, ""},
		"no key":     {" resetkeys ~other:* +hget +hset +hdel +hincrby +hgetall +hmget +eval +evalsha", `key "mdp:pulseflow:rates:ibkr"`},
		"no HSET":    {all + " -hset", "grant +hset"},
		"no HGETALL": {all + " -hgetall", "grant +hgetall"},
		"no HINCRBY": {all + " -hincrby", "grant +hincrby"},
		"no scripts": {all + " -evalsha", "grant +evalsha"},
	} {
		t.Run(name, func(t *testing.T) {
			server := redistest.Start(t, redistest.WithUser("limited on >pw -@all +ping +select"+tt.rule))
			r := newRegisters(t, server.UserURL("limited", "pw"))
			err := r.Check(context.Background(), []string{"mdp:pulseflow:rates:ibkr"})
			switch {
			case tt.want == "" && err != nil, tt.want != "" && err == nil:
				t.Errorf("got %v, want %q", err, tt.want)
			case err != nil && !strings.Contains(err.Error(), tt.want):
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if tt.want == "" {
				if err := errOf(r.Raise(context.Background(), "mdp:pulseflow:rates:ibkr", 1, map[string]string{"a": "1"}, map[string]string{"a": "1"})); err != nil {
					t.Errorf("what is enough for the check is not: %v", err)
				}
			}
		})
	}
}

// A server that is away makes an error that says the bus is unavailable.
func TestRegistersUnavailable(t *testing.T) {
	server := redistest.Start(t)
	r := newRegisters(t, server.URL())
	server.Stop()
	_, _, _, err := r.Read(context.Background(), "k")
	var u interface{ Unavailable() bool }
	if !errors.As(err, &u) || !u.Unavailable() {
		t.Errorf("%v is not unavailable", err)
	}
	if err := r.Check(context.Background(), []string{"k"}); !errors.As(err, &u) || !u.Unavailable() {
		t.Errorf("%v is not unavailable", err)
	}
}
