package redistest_test

import (
	"path/filepath"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/mjdevaccount/pulseflow/internal/redistest"
)

func TestServer(t *testing.T) {
	for name, opts := range map[string][]redistest.Option{
		"tcp":    nil,
		"socket": {redistest.WithSocket()},
		"tls":    {redistest.WithTLS()},
	} {
		t.Run(name, func(t *testing.T) {
			s := redistest.Start(t, opts...)
			client := s.Client(t)
			if err := client.Set(t.Context(), "k", "v", 0).Err(); err != nil {
				t.Fatal(err)
			}
			if _, err := redis.ParseURL(s.URL()); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestServerKeepsDataOverKill(t *testing.T) {
	s := redistest.Start(t, redistest.WithAOF())
	client := s.Client(t)
	if err := client.Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	s.Kill()
	s.Restart()
	if got, err := s.Client(t).Get(t.Context(), "k").Result(); got != "v" || err != nil {
		t.Fatalf("got %q, %v after a restart", got, err)
	}
}

func TestServerUser(t *testing.T) {
	s := redistest.Start(t, redistest.WithUser("alice on >secret ~* +get"))
	opts, err := redis.ParseURL(s.UserURL("alice", "secret"))
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(opts)
	defer client.Close()
	if err := client.Set(t.Context(), "k", "v", 0).Err(); !redis.HasErrorPrefix(err, "NOPERM") {
		t.Fatalf("SET as a user without +set: %v", err)
	}
}

// TestStartWithoutServer starts a test of its own in which no redis-server can be found.
func TestStartWithoutServer(t *testing.T) {
	for name, required := range map[string]string{"skipped": "", "failed": "required"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(redistest.EnvServer, filepath.Join(t.TempDir(), "none"))
			t.Setenv(redistest.EnvRequired, required)
			fake := &outcome{TB: t}
			func() {
				defer func() { _ = recover() }()
				redistest.Start(fake)
			}()
			if fake.is != name {
				t.Fatalf("without a server the test %q, want %q", fake.is, name)
			}
		})
	}
}

// outcome records how a test ends instead of ending it.
type outcome struct {
	testing.TB
	is string
}

func (o *outcome) Helper()               {}
func (o *outcome) Skipf(string, ...any)  { o.end("skipped") }
func (o *outcome) Fatalf(string, ...any) { o.end("failed") }

func (o *outcome) end(how string) {
	if o.is == "" {
		o.is = how
	}
	panic(how)
}

func TestProxy(t *testing.T) {
	s := redistest.Start(t)
	p := s.Proxy(t)
	opts, err := redis.ParseURL(p.URL())
	if err != nil {
		t.Fatal(err)
	}
	opts.MaxRetries = -1
	client := redis.NewClient(opts)
	defer client.Close()
	ctx := t.Context()
	if err := client.Set(ctx, "k", "v\r\nw", 0).Err(); err != nil {
		t.Fatal(err)
	}
	p.Refuse("LOADING for a while", "get")
	var get *redis.StringCmd
	var exists *redis.IntCmd
	_, _ = client.Pipelined(ctx, func(p redis.Pipeliner) error {
		get, exists = p.Get(ctx, "k"), p.Exists(ctx, "k")
		return nil
	})
	if !redis.HasErrorPrefix(get.Err(), "LOADING") || exists.Val() != 1 {
		t.Errorf("GET: %v, EXISTS: %v", get.Err(), exists)
	}
	p.Pass()
	if got := client.Get(ctx, "k").Val(); got != "v\r\nw" {
		t.Errorf("got %q", got)
	}
	p.Cut()
	for range 2 { // the second is on a new connection
		err = client.Ping(ctx).Err()
	}
	if err != nil {
		t.Errorf("after a cut: %v", err)
	}
}
