package app

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// section cuts a page down to what stands under a heading of the second level.
func section(t *testing.T, page, heading string) string {
	t.Helper()
	src, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(src), "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("%s has no section %q", page, heading)
	}
	text, _, _ := strings.Cut(rest, "\n## ")
	return text
}

// program makes a folder with this test binary in it as pulseflow, for a PATH.
func program(t *testing.T) string {
	t.Helper()
	bin := t.TempDir()
	self, err := filepath.Abs(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\n%s=1 GORACE=atexit_sleep_ms=0 exec %s \"$@\"\n", asProgram, self)
	if err := os.WriteFile(filepath.Join(bin, "pulseflow"), []byte(script), 0o700); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	return bin
}

// freeAddress is one that nothing listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// terminal is a shell that is typed into.
type terminal struct {
	t   *testing.T
	in  *os.File
	out *bufio.Reader
}

func openTerminal(t *testing.T, dir string, env []string) *terminal {
	t.Helper()
	shell := exec.Command("sh")
	shell.Dir, shell.Env = dir, env
	stdin, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out, stdout, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	shell.Stdin, shell.Stdout, shell.Stderr = stdin, stdout, stdout
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	stdin.Close()
	stdout.Close()
	t.Cleanup(func() {
		in.Close()
		_ = shell.Wait() // its status is that of the last command
		out.Close()
	})
	return &terminal{t, in, bufio.NewReader(out)}
}

// enter runs a command and returns what it printed.
func (term *terminal) enter(command string) string {
	term.t.Helper()
	const end = "\x04end"
	if _, err := fmt.Fprintf(term.in, "%s\nprintf '\\004end\\n'\n", command); err != nil {
		term.t.Fatal(err)
	}
	var b strings.Builder
	for {
		line, err := term.out.ReadString('\n')
		if err != nil {
			term.t.Fatalf("%s: %v after\n%s", command, err, b.String())
		}
		if before, ended := strings.CutSuffix(line, end+"\n"); ended {
			return b.String() + before
		}
		b.WriteString(line)
	}
}

// The way of a newcomer, as README.md has it: from an empty folder, every command in
// the order of the page, in one shell, with the output that is shown.
func TestGettingStarted(t *testing.T) {
	page := filepath.Join(t.TempDir(), "section.md")
	if err := os.WriteFile(page, []byte("\n"+section(t, "../../README.md", "Getting started")), 0o600); err != nil {
		t.Fatal(err)
	}
	dir, bin, address := t.TempDir(), program(t), freeAddress(t)
	term := openTerminal(t, dir, []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "PULSEFLOW_LISTEN=" + address, "HOME=" + dir})
	pid := regexp.MustCompile(`^\d+$`)
	commands := 0
	for _, b := range blocks(t, page) {
		if b.info != "console" {
			t.Errorf("a block %q, which is not run", b.info)
		}
		text := strings.ReplaceAll(b.text, "127.0.0.1:8088", address)
		for _, step := range strings.Split("\n"+strings.TrimSuffix(text, "\n"), "\n$ ")[1:] {
			command, want, _ := strings.Cut(step, "\n")
			commands++
			var got string
			run := func() bool {
				got = strings.TrimSuffix(term.enter(command), "\n")
				return shown(want).MatchString(got)
			}
			switch {
			case strings.HasSuffix(command, "&"):
				run()
				// Whatever fails later, the process must not outlive the test.
				if id := strings.TrimSpace(term.enter("echo $!")); pid.MatchString(id) {
					t.Cleanup(func() { _ = exec.Command("kill", id).Run() })
				}
				eventually(t, "the service", func() bool {
					conn, err := net.Dial("tcp", address)
					if err == nil {
						conn.Close()
					}
					return err == nil
				}, func() string { return term.enter("cat run.log") })
			case strings.HasPrefix(command, "curl -s http"), strings.Contains(command, " run --feed "):
				// What was published is handled a moment later; the feed's own line may come
				// after the first event's.
				eventually(t, "what the page shows", run, func() string { return command + " printed\n" + got })
			default:
				if !run() {
					t.Errorf("%s printed\n%s\nand the page shows\n%s", command, got, want)
				}
			}
		}
	}
	if commands < 10 {
		t.Errorf("only %d commands found", commands)
	}
}

// The section above needs nothing but what --help tells of.
func TestHelpNamesTheFirstCommands(t *testing.T) {
	_, help, _ := invoke(t, nil, "", "--help")
	for _, command := range []string{"init", "check", "test", "run", "publish", "stages"} {
		if !strings.Contains(help, "\n  "+command+" ") {
			t.Errorf("--help does not list %s", command)
		}
	}
}
