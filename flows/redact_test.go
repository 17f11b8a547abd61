package flows_test

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/mjdevaccount/pulseflow/flows"
)

const full = `version: 1
shutdown_timeout: 90s
bus:
  backend: redis
  max_event_size: 1500KB
  redis: {url: "${REDIS_URL}", stream_key: "{ns}:{topic}", block: 1500ms, max_idle: 2h}
admin: {publisher_token: "hunter2", operator_token: "${OPERATOR_TOKEN}"}
registry: {url: "https://reader:hunter2@registry.example/base?token=hunter2", cache_ttl: 0s}
providers:
  ibkr: {rate: 0.5, min_rate: 0}
  other: {rate: 1000000}
flows:
  feedback:
    from: {stream: telemetry.feedback}
    stages:
      - dedupe
      - notify:
          url: https://me:hunter2@hooks.example/
          token: ${HOOK_TOKEN}
          text: "a $${NAME} and ${NAME}"
          "on": [1, 1.5, true, null, "1", "true", "null", ~, 2026-11-24, ""]
          ${NOT_A_VARIABLE}: {}
`

// buses is a file of several buses, each flow on others.
const buses = `
version: 1
bus: {namespace: prod, lanes: 3}
buses:
  shared: {backend: redis, lanes: 5, redis: {stream_key: "{ns}/{topic}", tls: {ca: a}}}
  other: {backend: inmem, namespace: test}
flows:
  a: {from: {stream: s1}, stages: [x], to: {bus: other, stream: t1}}
  b: {from: {bus: shared, stream: s2}, stages: [x], to: {stream: t2}}
  c: {from: {bus: other, stream: s3}, stages: [x], to: {bus: default, stream: t3}, lanes: 7}
`

// A flow without a choice is on the default bus, publishes to the bus that it reads
// from, and has that bus's keys and lanes.
func TestBuses(t *testing.T) {
	f := parse(t, buses, nil)
	type resolved struct {
		From, Key, DeadLetter, To, ToKey string
		Lanes                            int
	}
	var got []resolved
	for _, w := range f.Flows {
		got = append(got, resolved{w.From.Bus, w.From.Key, w.DeadLetter.Key, w.To.Bus, w.To.Key, w.Lanes})
	}
	want := []resolved{
		{"default", "prod:prod.s1", "prod:prod.s1.dlq", "other", "test:test.t1", 3},
		{"shared", "prod/s2", "prod/s2.dlq", "shared", "prod/t2", 5},
		{"other", "test:test.s3", "test:test.s3.dlq", "default", "prod:prod.t3", 7},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	var used []string
	for _, b := range f.UsedBuses() {
		used = append(used, b.Name)
	}
	if diff := cmp.Diff([]string{"default", "shared", "other"}, used); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestPlace(t *testing.T) {
	of := func(backend, url string) string {
		b := flows.Bus{Name: "n", Backend: backend, Redis: flows.Redis{URL: url}}
		return b.Place()
	}
	for want, urls := range map[string][]string{
		"redis h:6379/0":       {"redis://h", "redis://h/", "rediss://h:6379/0", "redis://u:secret@h?protocol=3"},
		"redis h:1/2":          {"redis://h:1/2", "redis://h:1?db=2", "redis://h:1/2/"},
		"redis /run/r.sock/0":  {"unix:///run/r.sock", "unix://u:secret@/run/r.sock?db=0"},
		"redis /run/r.sock/12": {"unix:///run/r.sock?db=12"},
	} {
		for _, url := range urls {
			if got := of("redis", url); got != want {
				t.Errorf("%s is at %q, want %q", url, got, want)
			}
		}
	}
	if got := of("inmem", "redis://h"); got != "inmem n" {
		t.Errorf("in memory: %q", got)
	}
}

// The password of each bus stays secret.
func TestRedactedBuses(t *testing.T) {
	f := parse(t, strings.Replace(buses, "redis: {", `redis: {url: "redis://u:hunter2@h/1", `, 1), nil)
	got, err := f.Redacted()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(got), "hunter2") || !strings.Contains(string(got), "url: redis://u:***@h/1") {
		t.Errorf("listing:\n%s", got)
	}
}

func TestRedacted(t *testing.T) {
	f := parse(t, full, map[string]string{
		"REDIS_URL":      "rediss://pulse:hunter2@redis.example:6380/2?protocol=3",
		"OPERATOR_TOKEN": "hunter2", "HOOK_TOKEN": "hunter2", "NAME": "yes: [",
	})
	got, err := f.Redacted()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(got), "hunter2") {
		t.Errorf("a secret is shown:\n%s", got)
	}
	const golden = "testdata/redacted.golden"
	if *update {
		if err := os.WriteFile(golden, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("listing differs (-want +got):\n%s", diff)
	}
}

// TestRedactedMeansTheSame reads a listing again.
func TestRedactedMeansTheSame(t *testing.T) {
	for name, src := range map[string]string{
		"built-in": string(flows.DefaultSource()),
		"full":     strings.ReplaceAll(full, "hunter2", "***"),
		"minimal":  minimal,
		"buses":    buses,
	} {
		t.Run(name, func(t *testing.T) {
			want := parse(t, src, map[string]string{
				"REDIS_URL": "redis://:***@h/1", "OPERATOR_TOKEN": "***", "HOOK_TOKEN": "***", "NAME": "x",
			})
			listing, err := want.Redacted()
			if err != nil {
				t.Fatal(err)
			}
			got := parse(t, string(listing), nil)
			ignoreURLs := cmp.Options{
				cmpopts.IgnoreFields(flows.Redis{}, "URL"), cmpopts.IgnoreFields(flows.Registry{}, "URL"),
			}
			opts := withoutPlaces()
			if name == "full" {
				opts = append(opts, ignoreURLs)
			}
			if diff := cmp.Diff(want, got, opts); diff != "" {
				t.Errorf("the listing means something else (-file +listing):\n%s\n%s", diff, listing)
			}
		})
	}
}

func TestRedactedURLs(t *testing.T) {
	tests := []struct{ url, want string }{
		{"redis://localhost:6379/0", "redis://localhost:6379/0"},
		{"redis://user@h/0", "redis://user@h/0"},
		{"redis://user:pw@h/0", "redis://user:***@h/0"},
		{"redis://:pw@h/0", "redis://:***@h/0"},
		{"rediss://u%40x:p%3Aw@h:1?db=2", "rediss://u%40x:***@h:1?db=2"},
		{"unix://u:pw@/run/redis.sock?db=3", "unix://u:***@/run/redis.sock?db=3"},
		{"redis://h/0?password=pw&db=1", "redis://h/0?***"},
	}
	for _, tt := range tests {
		t.Run(tt.url, func(t *testing.T) {
			f := parse(t, minimal+"bus: {redis: {url: \""+tt.url+"\"}}\n", nil)
			listing, err := f.Redacted()
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(listing), "    url: "+tt.want+"\n") {
				t.Errorf("%s is not in\n%s", tt.want, listing)
			}
		})
	}
}
