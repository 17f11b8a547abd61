package app

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// block is a fenced block of a Markdown file.
type block struct {
	info, text string
	line       int
}

var fence = regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```$")

func blocks(t *testing.T, path string) []block {
	t.Helper()
	src, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var list []block
	for _, m := range fence.FindAllSubmatchIndex(src, -1) {
		list = append(list, block{
			info: string(src[m[2]:m[3]]), text: string(src[m[4]:m[5]]), line: strings.Count(string(src[:m[0]]), "\n") + 1,
		})
	}
	return list
}

// Every whole flow file in the documentation is one that check accepts.
func TestDocumentedFilesAreRight(t *testing.T) {
	n := 0
	pages, err := filepath.Glob(filepath.Join("..", "..", "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range append(pages, filepath.Join("..", "..", "README.md")) {
		for _, b := range blocks(t, page) {
			if b.info != "yaml" || !strings.HasPrefix(b.text, "version:") {
				continue
			}
			n++
			if status, _, errs := invoke(t, nil, "", "check", writeFile(t, b.text)); status != exitOK {
				t.Errorf("%s:%d: status %d\n%s", page, b.line, status, errs)
			}
		}
	}
	if n == 0 {
		t.Error("no flow file found")
	}
}

// The tour in README.md and the requests in docs/rates.md, command by command, in a
// shell, in a copy of what they refer to. In the output shown, … stands for any text.
func TestTour(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"flows.yaml", "flows_test.yaml", "event/testdata/feedback.jsonl"} {
		src, err := os.ReadFile(filepath.Join("..", "..", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), src, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	bin, address := program(t), freeAddress(t)
	env := []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "PULSEFLOW_LISTEN=" + address, "HOME=" + dir}

	// What `make run` starts.
	service := exec.Command(filepath.Join(bin, "pulseflow"), "run", "--feed", "event/testdata/feedback.jsonl")
	service.Dir, service.Env = dir, env
	if err := service.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = service.Process.Kill()
		_ = service.Wait()
	})
	eventually(t, "the service", func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	}, func() string { return "" })

	commands := 0
	var before strings.Builder // variables set by earlier commands
	for _, page := range []string{"README.md", "docs/rates.md"} {
		path := filepath.Join("..", "..", page)
		newcomer := ""
		if page == "README.md" {
			newcomer = section(t, path, "Getting started") // TestGettingStarted runs it
		}
		for _, b := range blocks(t, path) {
			if b.info != "console" || strings.Contains(newcomer, b.text) {
				continue
			}
			for _, step := range strings.Split("\n"+strings.TrimSuffix(b.text, "\n"), "\n$ ")[1:] {
				command, want, _ := strings.Cut(step, "\n")
				commands++
				command = strings.ReplaceAll(command, "127.0.0.1:8088", address)
				if regexp.MustCompile(`^[A-Z]+=\S+$`).MatchString(command) {
					before.WriteString(command + "\n")
					continue
				}
				run := exec.Command("sh", "-c", before.String()+command)
				run.Dir, run.Env = dir, env
				out, err := run.CombinedOutput()
				if err != nil {
					t.Errorf("%s, block at line %d: %s: %v", page, b.line, command, err)
				}
				if strings.Contains(command, "/ingest/") {
					eventually(t, "the dead letter", func() bool {
						list := exec.Command(filepath.Join(bin, "pulseflow"), "dlq", "list")
						list.Dir, list.Env = dir, env
						text, err := list.Output()
						return err == nil && strings.Count(string(text), "\n") == 2
					}, func() string { return "" })
				}
				if !shown(want).MatchString(strings.TrimSuffix(string(out), "\n")) {
					t.Errorf("%s, block at line %d: %s printed\n%s\nand the page shows\n%s", page, b.line, command, out, want)
				}
			}
		}
	}
	if commands < 20 {
		t.Errorf("only %d commands found", commands)
	}
}

// shown makes a pattern of the output a page shows. White space is compared loosely,
// since columns follow their content.
func shown(text string) *regexp.Regexp {
	parts := strings.Split(text, "…")
	for i, part := range parts {
		quoted := regexp.QuoteMeta(part)
		parts[i] = regexp.MustCompile(` +`).ReplaceAllString(quoted, ` *`)
	}
	return regexp.MustCompile(`^` + strings.Join(parts, `[^\n]*`) + `$`)
}

// The example of docs/testing.md passes on the shipped flow, and so would an editor's
// check of it; the event explained there is explained so.
func TestDocumentedTests(t *testing.T) {
	schema := printedSchema(t, "--tests")
	list := blocks(t, filepath.Join("..", "..", "docs", "testing.md"))
	flowFile := string(flowsYAML(t))
	var example string
	var explained block
	for _, b := range list {
		switch {
		case b.info == "yaml" && strings.HasPrefix(b.text, "# flows_test.yaml"):
			example = b.text
		case b.info == "yaml": // a flow file with tests in it
			if status, out, errs := invoke(t, nil, "", "test", writeFile(t, b.text)); status != exitOK {
				t.Errorf("docs/testing.md:%d: status %d\n%s%s", b.line, status, out, errs)
			}
		case b.info == "console" && strings.Contains(b.text, "pulseflow explain"):
			explained = b
		}
	}
	v, err := document([]byte(example))
	if err == nil {
		err = schema.Validate(v)
	}
	if err != nil {
		t.Error(err)
	}
	inFolder(t, map[string]string{
		"flows.yaml": flowFile, "flows_test.yaml": example,
		"event.json": `{"coordinator_id": "bars_1", "queue_size": 7, "capacity": 10, "level": "soft" }`,
	})
	if status, out, errs := invoke(t, nil, "", "test"); status != exitOK {
		t.Errorf("status %d\n%s%s", status, out, errs)
	}
	wrong := strings.Replace(example, "outcome: success", "outcome: error", 1)
	if err := os.WriteFile("flows_test.yaml", []byte(wrong), 0o600); err != nil {
		t.Fatal(err)
	}
	_, out, _ := invoke(t, nil, "", "test")
	shownFailure := false
	for _, b := range list {
		shownFailure = shownFailure || b.info == "text" && shown(b.text).MatchString(out)
	}
	if !shownFailure {
		t.Errorf("the page does not show\n%s", out)
	}
	command, want, _ := strings.Cut(explained.text, "\n")
	status, out, errs := invoke(t, nil, "", strings.Fields(command)[2:]...)
	if status != exitOK || !shown(strings.TrimSuffix(want, "\n")).MatchString(strings.TrimSuffix(out, "\n")) {
		t.Errorf("status %d\n%s%s\nand the page shows\n%s", status, out, errs, want)
	}
}
