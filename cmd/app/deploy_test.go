package app

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/mjdevaccount/pulseflow/stages"
)

func deployed(t *testing.T, name string) string {
	t.Helper()
	src, err := os.ReadFile(filepath.Join("..", "..", "deploy", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(src)
}

// What the compose file sets is what the shipped file reads, and the service starts with it.
func TestComposeFileFitsTheProgram(t *testing.T) {
	var compose struct {
		Services map[string]struct {
			Environment map[string]string
			Ports       []string
		}
	}
	if err := yaml.Unmarshal([]byte(deployed(t, "compose.yaml")), &compose); err != nil {
		t.Fatal(err)
	}
	service := compose.Services["pulseflow"]
	env := make(map[string]string)
	substitution := regexp.MustCompile(`\$\{(\w+)[^}]*\}`)
	for name, value := range service.Environment {
		env[name] = substitution.ReplaceAllString(value, "$1") // the name of a variable of the host's for its value
	}
	used := make(map[string]bool)
	var errs strings.Builder
	files := fileFlags{config: filepath.Join("..", "..", "flows.yaml")}
	plan, err := files.load(system{stages: stages.Builtin(), stderr: &errs, lookupEnv: func(name string) (string, bool) {
		used[name] = true
		value, ok := env[name]
		return value, ok
	}})
	if err != nil {
		t.Fatal(err, errs.String())
	}
	for name := range env {
		if !used[name] {
			t.Errorf("%s is set, and flows.yaml does not read it", name)
		}
	}
	for _, name := range []string{"PUBLISHER_TOKEN", "OPERATOR_TOKEN"} {
		if env[name] == "" {
			t.Errorf("%s cannot be set", name)
		}
	}
	if plan.File.Bus.Backend != "redis" {
		t.Errorf("backend %s", plan.File.Bus.Backend)
	}
	config := adminConfig(plan.File)
	if err := config.Validate(); err != nil {
		t.Error(err)
	}
	_, port, _ := strings.Cut(config.Listen, ":")
	if !slices.ContainsFunc(service.Ports, func(p string) bool { return strings.HasSuffix(p, ":"+port) }) {
		t.Errorf("the listener's port %s is not among %v", port, service.Ports)
	}
	if !strings.Contains(deployed(t, "Dockerfile"), "EXPOSE "+port) {
		t.Errorf("the image does not expose port %s", port)
	}
}

// The image's command line is one that the program takes, and its folders are there.
func TestDockerfileFitsTheProgram(t *testing.T) {
	text := deployed(t, "Dockerfile")
	m := regexp.MustCompile(`(?m)^CMD (\[.*\])$`).FindStringSubmatch(text)
	if m == nil {
		t.Fatal("no CMD")
	}
	var args []string
	if err := yaml.Unmarshal([]byte(m[1]), &args); err != nil {
		t.Fatal(err)
	}
	cmd, rest, err := rootCommand(system{stages: stages.Builtin()}).Find(args)
	if err != nil || cmd.Name() != "run" {
		t.Fatalf("%v: %v", args, err)
	}
	if err := cmd.ParseFlags(rest); err != nil {
		t.Error(err)
	}
	if config := cmd.Flag("config").Value.String(); !strings.Contains(text, "COPY flows.yaml "+config+"\n") {
		t.Errorf("no file is copied to %s", config)
	}
	version := regexp.MustCompile(`-X (\S+)=`).FindStringSubmatch(text)
	if makefile, err := os.ReadFile(filepath.Join("..", "..", "Makefile")); err != nil || !strings.Contains(string(makefile), version[1]+"=") {
		t.Errorf("%v: the Makefile does not set %s", err, version[1])
	}
}
