package app

import (
	"strings"
	"testing"

	"github.com/mjdevaccount/pulseflow/internal/redistest"
)

// chained has the readers in front of those they read from, which is the order in
// which a drain looks at them.
const chained = `version: 1
admin: {listen: "off"}
bus: {backend: "${EVENT_BUS_BACKEND:-inmem}", redis: {url: "${REDIS_URL:-redis://localhost:6379/0}"}}
flows:
  third: {from: {stream: hop.two}, stages: [dedupe]}
  second: {from: {stream: hop.one}, stages: [dedupe], to: {stream: hop.two}}
  first: {from: {stream: telemetry.feedback}, stages: [dedupe, {filter: {when: payload.level != "ok"}}], to: {stream: hop.one}}
`

// A drain ends when the last flow of a chain has handled what the first was fed.
func TestDrainOfAChain(t *testing.T) {
	for name, env := range map[string]map[string]string{
		"inmem": {}, "redis": redisEnv(redistest.Start(t)),
	} {
		t.Run(name, func(t *testing.T) {
			status, out, errs := invoke(t, env, "", "run", "--config", writeFile(t, chained), "--feed", recording(t, "feedback.jsonl"), "--drain")
			if status != exitOK {
				t.Fatalf("status %d\n%s", status, errs)
			}
			for _, want := range []string{
				"flow third        8 success, 0 duplicate, 0 error\n", "flow second       8 success",
				"flow first        8 success, 0 duplicate, 0 error, 2 filtered\n",
			} {
				if !strings.Contains(out, want) {
					t.Errorf("the summary lacks %q:\n%s", want, out)
				}
			}
		})
	}
}
