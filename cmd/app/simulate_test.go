package app

import (
	"encoding/xml"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSimulate(t *testing.T) {
	t.Chdir(t.TempDir())
	status, out, errs := invoke(t, map[string]string{"COLUMNS": "60"}, "", "simulate")
	if status != exitOK || errs != "" {
		t.Fatalf("status %d\n%s", status, errs)
	}
	for _, want := range []string{"queue depth in items", "high 8000", "low 5000", "\noverflow, items                0\n", "time in hard"} {
		if !strings.Contains(out, want) {
			t.Errorf("output lacks %q:\n%s", want, out)
		}
	}
	for line := range strings.Lines(out) {
		if n := len([]rune(strings.TrimSuffix(line, "\n"))); strings.Contains(line, "│") && n > 60 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	if strings.Contains(out, "pinned at") || strings.Contains(out, "\x1b") {
		t.Errorf("pinned, or in colour:\n%s", out)
	}
	if _, again, _ := invoke(t, map[string]string{"COLUMNS": "60"}, "", "simulate"); again != out {
		t.Errorf("the same command printed something else:\n%s", again)
	}
}

func TestSimulateALostOK(t *testing.T) {
	t.Chdir(t.TempDir())
	status, out, errs := invoke(t, nil, "", "simulate", "--no-chart", "--duration", "2m", "--lose", "ok",
		"--try", "on_silence=30s")
	if status != exitOK || errs != "" {
		t.Fatalf("status %d\n%s", status, errs)
	}
	for _, want := range []string{
		"built-in", "on_silence=30s", "provider ibkr is pinned at soft", "on_silence: {after: 60s, step: true}",
		"DELETE /rates/ibkr/coordinators/bars_1",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("output lacks %q:\n%s", want, out)
		}
	}
	if strings.Count(out, "pinned at") != 1 {
		t.Errorf("also pinned with on_silence:\n%s", out)
	}
	off := map[string]string{"MDP_FB_ENABLE_FEEDBACK": "false", "MDP_FB_PROVIDER_NAME": "polygon"}
	status, out, errs = invoke(t, off, "", "simulate", "--duration", "1m", "--lose", "ok")
	if status != exitOK || errs != "" || !strings.Contains(out, "DELETE /rates/polygon/coordinators/bars_1") {
		t.Errorf("switched off: status %d\n%s%s", status, out, errs)
	}
}

func TestSimulateWritesFiles(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	text := strings.Replace(minimal, "- dedupe: {ttl: 10m}",
		"- handle: {with: feedback, provider: ibkr, policy: {soft: 0.9}}\n      - rate-apply", 1)
	other := writeFile(t, text)
	status, out, errs := invoke(t, nil, "", "simulate", "--duration", "20s", "--interval", "2s", "--drain", "1000", "--offered", "2x",
		"--drain-at", "5s=50%,10s=1000", "--compare", other, "--try", "soft=0.7,min_rate=2,ramp_up=3s", "--csv", "out.csv", "--svg", "out.svg")
	if status != exitOK || errs != "" || !strings.Contains(out, "soft=0.7,min_rate=2,ramp_up=3s") {
		t.Fatalf("status %d\n%s%s", status, out, errs)
	}
	samples, err := os.ReadFile(filepath.Join(dir, "out.csv"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(samples)), "\n")
	if len(lines) != 1+3*10 || !strings.HasPrefix(lines[0], "variant,time_s,depth,") || !strings.HasPrefix(lines[11], "flows.yaml,2,") {
		t.Errorf("samples:\n%s", samples)
	}
	if fields := strings.Split(lines[4], ","); fields[1] != "8" || fields[11] != "500" {
		t.Errorf("drain of 500 expected: %s", lines[4])
	}
	plot, err := os.ReadFile(filepath.Join(dir, "out.svg"))
	if err != nil {
		t.Fatal(err)
	}
	var document struct{ XMLName xml.Name }
	if err := xml.Unmarshal(plot, &document); err != nil || document.XMLName.Local != "svg" {
		t.Errorf("plot: %v", err)
	}
	if _, out, _ := invoke(t, nil, "", "simulate", "-c", other, "--duration", "1s", "--no-chart", "--compare",
		writeFile(t, text)); strings.Count(out, string(filepath.Separator)+"flows.yaml") != 2 {
		t.Errorf("files of the same name are not told apart:\n%s", out)
	}
	for _, flag := range []string{"--csv", "--svg"} {
		if _, out, errs := invoke(t, nil, "", "simulate", "--duration", "1s", flag, "-"); errs != "" || strings.Contains(out, "overflow, items") {
			t.Errorf("%s -: %s%s", flag, out, errs)
		}
	}
	if status, _, errs := invoke(t, nil, "", "simulate", "--csv", "no/such/folder.csv"); status != exitFailure || errs == "" {
		t.Errorf("a file that cannot be written: status %d %s", status, errs)
	}
}

// Whatever the file says of a provider is what is simulated.
func TestSimulateChooses(t *testing.T) {
	two := writeFile(t, `version: 1
providers:
  ibkr: {rate: 60}
  polygon: {rate: 30, min_rate: 5}
flows:
  one:
    from: {stream: telemetry.one}
    stages: [{handle: {with: feedback, provider: ibkr}}, rate-apply]
  two:
    from: {stream: telemetry.two}
    stages: [{handle: {with: feedback, provider: polygon}}, rate-apply]
  three:
    from: {stream: telemetry.three}
    stages: [dedupe]
`)
	for _, args := range [][]string{{"--flow", "two"}, {"--provider", "polygon"}, {"--flow", "two", "--provider", "polygon"}} {
		status, out, errs := invoke(t, nil, "", append([]string{"simulate", "-c", two, "--no-chart", "--items", "10", "--duration", "30s"}, args...)...)
		if status != exitOK || errs != "" || !strings.Contains(out, "items/s that ok allows         300\n") ||
			!strings.Contains(out, "items/s that hard allows       50\n") || !strings.Contains(out, "throughput, items/s            200.0\n") {
			t.Errorf("%v: status %d\n%s%s", args, status, out, errs)
		}
	}
	for want, args := range map[string][]string{
		`choose with --flow or --provider: flow "one" adjusts "ibkr", flow "two" adjusts "polygon"`: nil,
		"no flow fits": {"--flow", "three"},
	} {
		status, out, errs := invoke(t, nil, "", append([]string{"simulate", "-c", two}, args...)...)
		if status != exitConfig || out != "" || !strings.Contains(errs, want) {
			t.Errorf("%v: status %d\n%s%s", args, status, out, errs)
		}
	}
}

// A terminal that says it is very wide gets no chart without end.
func TestSimulateBoundsTheChart(t *testing.T) {
	status, out, errs := invoke(t, map[string]string{"COLUMNS": "1000000000"}, "", "simulate", "--duration", "10s")
	if status != exitOK || errs != "" || len(out) > 100<<10 {
		t.Errorf("status %d, %d bytes, %s", status, len(out), errs)
	}
}

func TestSimulateErrors(t *testing.T) {
	nothing := writeFile(t, minimal)
	for want, args := range map[string][]string{
		"no flow adjusts the rate":               {"-c", nothing},
		"nowhere.yaml":                           {"--compare", "nowhere.yaml"},
		`did you mean "on_silence"?`:             {"--try", "on_silenc=3s"},
		"must be KEY=VALUE":                      {"--try", "soft"},
		"must be from 0 to 1":                    {"--try", "soft=1.5"},
		`ramp_up: "5" must be a duration`:        {"--try", "ramp_up=5"},
		"min_rate 100 must be in [0, rate 60]":   {"--try", "min_rate=100"},
		"rate 0 must be above 0":                 {"--try", "rate=0"},
		"at most 4":                              {"--try", "ok=1", "--try", "ok=1", "--try", "ok=1", "--try", "ok=1"},
		`--offered "fast"`:                       {"--offered", "fast"},
		`"30" is not a time`:                     {"--drain-at", "30=5"},
		"must be TIME=RATE":                      {"--drain-at", "30s"},
		"must come after 1m0s":                   {"--drain-at", "60s=5,30s=5"},
		"high watermark 20000":                   {"--high", "200%"},
		"low watermark 9000":                     {"--low", "9000"},
		`--low "x"`:                              {"--low", "x"},
		`--lose "nok"`:                           {"--lose", "nok"},
		"capacity 0":                             {"--capacity", "0"},
		"duration -1s":                           {"--duration", "-1s"},
		"delay -1s":                              {"--delay", "-1s"},
		"items per token 0":                      {"--items", "0", "--drain", "10"},
		"only one can be standard output":        {"--csv", "-", "--svg", "-"},
		`invalid argument "5" for "--duration"`:  {"--duration", "5"},
		`"x" is one argument too many`:           {"x"},
		"drain: 0 items/s must be above 0":       {"--drain", "0"},
		"drain: -5 items/s must be above 0":      {"--drain", "-5"},
		"interval 1h0m0s must be above 0 and at": {"--interval", "1h"},
		"at most 10000000 can be simulated":      {"--duration", "2540400h"},
		"at most 10000000000 can be simulated":   {"--items", "1000000"},
		"both are x":                             {"--csv", "x", "--svg", "./x"},
		"delay 2540400h0m0s must not be neg":     {"--delay", "2540400h"},
	} {
		status, out, errs := invoke(t, nil, "", append([]string{"simulate"}, args...)...)
		if status != exitConfig || out != "" || !strings.Contains(errs, want) {
			t.Errorf("%v: status %d, lacks %q\n%s%s", args, status, want, out, errs)
		}
	}
}
