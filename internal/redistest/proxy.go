package redistest

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Proxy stands between clients and a server over TCP, and makes trouble when told to.
type Proxy struct {
	server   string
	listener net.Listener
	done     sync.WaitGroup

	mu       sync.Mutex
	conns    map[net.Conn]struct{}
	closed   bool
	refusal  string          // the error that commands get instead of an answer; empty = none
	commands map[string]bool // those that do, upper case; empty = all
}

// Proxy starts a proxy of the server that ends with the test. The server must speak plain TCP.
func (s *Server) Proxy(t testing.TB) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{server: s.Addr(), listener: l, conns: map[net.Conn]struct{}{}}
	p.done.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// URL returns what connects to the server through the proxy.
func (p *Proxy) URL() string { return "redis://" + p.listener.Addr().String() + "/0" }

// Cut resets every connection, with what is on its way. New ones are accepted.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = c.Close()
	}
}

// SwitchTo resets every connection and leads new ones to another server, as the address of a primary is moved in a
// failover.
func (p *Proxy) SwitchTo(other *Server) {
	p.mu.Lock()
	p.server = other.Addr()
	p.mu.Unlock()
	p.Cut()
}

func (p *Proxy) target() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.server
}

// Refuse makes commands fail with an error such as "LOADING Redis is loading" instead of reaching the server: the named
// ones, all when there is no name. Pass ends it.
func (p *Proxy) Refuse(text string, commands ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refusal, p.commands = text, map[string]bool{}
	for _, c := range commands {
		p.commands[strings.ToUpper(c)] = true
	}
}

// Pass lets every command through.
func (p *Proxy) Pass() { p.Refuse("") }

func (p *Proxy) refuses(command string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.commands) > 0 && !p.commands[strings.ToUpper(command)] {
		return ""
	}
	return p.refusal
}

func (p *Proxy) close() {
	_ = p.listener.Close()
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.Cut()
	p.done.Wait()
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.target())
		if err != nil {
			_ = client.Close()
			continue
		}
		if !p.keep(client, server) {
			return
		}
		p.done.Go(func() {
			_, _ = io.Copy(client, server)
			p.drop(client, server)
		})
		p.done.Go(func() {
			p.forward(server, bufio.NewReader(client))
			p.drop(client, server)
		})
	}
}

func (p *Proxy) keep(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		if p.closed {
			_ = c.Close()
			continue
		}
		p.conns[c] = struct{}{}
	}
	return !p.closed
}

func (p *Proxy) drop(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
		delete(p.conns, c)
	}
}

// forward passes commands on until one of the connections ends. In place of a refused one it sends a script that
// returns the error, so that answers keep their order.
func (p *Proxy) forward(to io.Writer, from *bufio.Reader) {
	for {
		raw, name, err := readCommand(from)
		if err != nil {
			return
		}
		if text := p.refuses(name); text != "" {
			raw = command("EVAL", "return redis.error_reply(ARGV[1])", "0", text)
		}
		if _, err := to.Write(raw); err != nil {
			return
		}
	}
}

// readCommand reads one command, an array of bulk strings, and returns it as it is and its name.
func readCommand(from *bufio.Reader) (raw []byte, name string, err error) {
	var b bytes.Buffer
	n, err := readLength(from, &b, '*')
	if err != nil {
		return nil, "", err
	}
	for i := range n {
		size, err := readLength(from, &b, '$')
		if err != nil {
			return nil, "", err
		}
		start := b.Len()
		if _, err := io.CopyN(&b, from, int64(size)+2); err != nil {
			return nil, "", err
		}
		if i == 0 {
			name = string(b.Bytes()[start : start+size])
		}
	}
	return b.Bytes(), name, nil
}

func readLength(from *bufio.Reader, copied *bytes.Buffer, kind byte) (int, error) {
	line, err := from.ReadString('\n')
	if err != nil {
		return 0, err
	}
	copied.WriteString(line)
	if line[0] != kind {
		return 0, fmt.Errorf("got %q instead of %q", line[0], kind)
	}
	return strconv.Atoi(strings.TrimSpace(line[1:]))
}

// command returns a command as it is sent.
func command(args ...string) []byte {
	b := fmt.Appendf(nil, "*%d\r\n", len(args))
	for _, arg := range args {
		b = fmt.Appendf(b, "$%d\r\n%s\r\n", len(arg), arg)
	}
	return b
}
