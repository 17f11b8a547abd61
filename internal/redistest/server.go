package redistest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// Environment variables that the package reads.
const (
	EnvServer   = "PULSEFLOW_REDIS_SERVER" // path of the redis-server to run; empty = the one in PATH
	EnvRequired = "PULSEFLOW_TEST_REDIS"   // "required": a test that finds no server fails instead of being skipped
)

// startTimeout is how long a server may take until it answers.
const startTimeout = 10 * time.Second

// Server is a running redis-server.
type Server struct {
	t    testing.TB
	path string // of the program
	dir  string
	opts options
	port int
	cmd  *exec.Cmd
	gone chan struct{} // closed when cmd has ended
	tls  *Certificates
}

type options struct {
	aof, tls, socket bool
	users            []string
	extra            []string
}

// Option sets a server up.
type Option func(*options)

// WithAOF makes the server keep its data over [Server.Restart] and [Server.Kill], each write before it answers.
func WithAOF() Option { return func(o *options) { o.aof = true } }

// WithTLS makes the server speak TLS and ask for a client certificate; see [Server.Certificates].
func WithTLS() Option { return func(o *options) { o.tls = true } }

// WithSocket makes the server listen on a unix socket only.
func WithSocket() Option { return func(o *options) { o.socket = true } }

// WithUser adds an ACL user by a rule such as "alice on >secret ~* +@all". The default user stays as it is.
func WithUser(rule string) Option { return func(o *options) { o.users = append(o.users, rule) } }

// WithArgs adds arguments to the server's command line.
func WithArgs(args ...string) Option { return func(o *options) { o.extra = append(o.extra, args...) } }

// Start starts a server that ends with the test. Where there is none to start, the test is skipped, or fails when
// $PULSEFLOW_TEST_REDIS is "required".
func Start(t testing.TB, opts ...Option) *Server {
	t.Helper()
	s := &Server{t: t, path: find(t), dir: shortDir(t)}
	for _, opt := range opts {
		opt(&s.opts)
	}
	if s.opts.tls {
		s.tls = newCertificates(t, s.dir)
	}
	t.Cleanup(s.Stop)
	var err error
	// Another process may take the port between its choice and its use.
	for range 5 {
		s.port = freePort(t)
		if err = s.launch(); err == nil {
			return s
		}
	}
	t.Fatalf("redis: cannot start %s: %v", s.path, err)
	return nil
}

// find returns the redis-server to run.
func find(t testing.TB) string {
	t.Helper()
	name := os.Getenv(EnvServer)
	if name == "" {
		name = "redis-server"
	}
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if os.Getenv(EnvRequired) == "required" {
		t.Fatalf("redis: required, but no redis-server: %v", err)
	}
	t.Skipf("redis: skipped: no redis-server in PATH nor in $%s", EnvServer)
	return ""
}

// shortDir returns a directory that ends with the test. Its path is short enough for a unix socket, which
// t.TempDir's, having the test's name in it, may not be.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "redis")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("redis: %v", err)
		}
	})
	return dir
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func (s *Server) launch() error {
	args := []string{"--save", "", "--dir", s.dir, "--bind", "127.0.0.1", "--daemonize", "no", "--loglevel", "warning"}
	switch {
	case s.opts.socket:
		args = append(args, "--port", "0", "--unixsocket", s.Socket())
	case s.opts.tls:
		args = append(args, "--port", "0", "--tls-port", fmt.Sprint(s.port), "--tls-auth-clients", "yes",
			"--tls-cert-file", s.tls.ServerCert, "--tls-key-file", s.tls.ServerKey, "--tls-ca-cert-file", s.tls.CA)
	default:
		args = append(args, "--port", fmt.Sprint(s.port))
	}
	if s.opts.aof {
		args = append(args, "--appendonly", "yes", "--appendfsync", "always")
	} else {
		args = append(args, "--appendonly", "no")
	}
	for _, rule := range s.opts.users {
		args = append(args, append([]string{"--user"}, strings.Fields(rule)...)...)
	}
	cmd := exec.Command(s.path, append(args, s.opts.extra...)...)
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		return err
	}
	gone := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(gone)
	}()
	s.cmd, s.gone = cmd, gone
	if err := s.answers(); err != nil {
		s.Kill()
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(output.String()))
	}
	return nil
}

// answers waits until the server does, or has ended.
func (s *Server) answers() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		if s.ping(ctx) {
			return nil
		}
		select {
		case <-s.gone:
			return errors.New("the server ended at once")
		case <-ctx.Done():
			return fmt.Errorf("the server does not answer: %w", ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// ping reports whether the server answers. It dials before a client does, because that would log each failure.
func (s *Server) ping(ctx context.Context) bool {
	network, addr := "tcp", s.Addr()
	if s.opts.socket {
		network, addr = "unix", s.Socket()
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, network, addr)
	if err != nil {
		return false
	}
	_ = conn.Close()
	client := s.client()
	defer client.Close()
	err = client.Ping(ctx).Err()
	return err == nil || redis.HasErrorPrefix(err, "NOAUTH")
}

// URL returns what connects to the server as the default user.
func (s *Server) URL() string { return s.url(nil) }

// UserURL returns what connects to the server as an ACL user.
func (s *Server) UserURL(name, password string) string {
	return s.url(url.UserPassword(name, password))
}

func (s *Server) url(user *url.Userinfo) string {
	u := url.URL{Scheme: "redis", User: user, Host: s.Addr(), Path: "/0"}
	switch {
	case s.opts.socket:
		u.Scheme, u.Host, u.Path = "unix", "", s.Socket()
	case s.opts.tls:
		u.Scheme = "rediss"
	}
	return u.String()
}

// Addr returns the server's TCP address, 127.0.0.1 and a port.
func (s *Server) Addr() string { return fmt.Sprintf("127.0.0.1:%d", s.port) }

// Socket returns the path of the server's unix socket.
func (s *Server) Socket() string { return filepath.Join(s.dir, "redis.sock") }

// Certificates returns the certificates of a server that speaks TLS.
func (s *Server) Certificates() Certificates { return *s.tls }

// Client returns a client of the server, as the default user, that is closed when the test ends.
func (s *Server) Client(t testing.TB) *redis.Client {
	t.Helper()
	client := s.client()
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func (s *Server) client() *redis.Client {
	o := &redis.Options{
		Addr: s.Addr(), DialTimeout: time.Second, MaxRetries: -1, DialerRetries: 1, DisableIdentity: true, Protocol: 2,
	}
	if s.opts.socket {
		o.Network, o.Addr = "unix", s.Socket()
	}
	if s.opts.tls {
		o.TLSConfig = s.tls.client(s.t)
	}
	return redis.NewClient(o)
}

// Stop ends the server in order. It may be called when the server has ended.
func (s *Server) Stop() {
	s.end(syscall.SIGTERM)
}

// Kill ends the server without warning.
func (s *Server) Kill() { s.end(syscall.SIGKILL) }

func (s *Server) end(sig syscall.Signal) {
	if s.cmd == nil {
		return
	}
	s.signal(syscall.SIGCONT)
	s.signal(sig)
	select {
	case <-s.gone:
	case <-time.After(startTimeout):
		s.signal(syscall.SIGKILL)
		<-s.gone
	}
}

// Pause makes the server hang: it keeps its connections and answers nothing.
func (s *Server) Pause() { s.signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (s *Server) Resume() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	if err := s.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.t.Errorf("redis: %v: %v", sig, err)
	}
}

// Restart starts the server again on the same address, stopping it first if it runs. Without WithAOF it is empty.
func (s *Server) Restart() {
	s.t.Helper()
	s.Stop()
	if err := s.launch(); err != nil {
		s.t.Fatalf("redis: restart: %v", err)
	}
}
