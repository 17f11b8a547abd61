package router_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/router"
	"github.com/mjdevaccount/pulseflow/stages"
)

func TestPolicyConflicts(t *testing.T) {
	const file = `version: 1
providers: {ibkr: {rate: 60}, iex: {rate: 10}}
flows:
  first:
    from: {stream: a}
    stages:
      - handle: {with: feedback}
  second:
    from: {stream: b}
    stages:
      - handle: {with: feedback, policy: {soft: 0.5}}
`
	warned := func(at, flow, policy string) string {
		return "flows.yaml:" + at + `: warning: flow "` + flow + `": stage 1 (handle): policy: provider "ibkr" gets {` + policy +
			`} here and {ok: 1, soft: 0.5, hard: 0} from flow "first", and has one policy, that of its newest event: ` +
			"give both flows the same, or each its own provider [provider-policy-conflict]"
	}
	for name, tt := range map[string]struct {
		old, replacement string
		want             []string
	}{
		"the same":              {"", "", nil},
		"another":               {"{soft: 0.5}", "{soft: 0.25}", []string{warned("11:42", "second", "ok: 1, soft: 0.25, hard: 0")}},
		"another provider":      {"policy: {soft: 0.5}", "provider: iex, policy: {soft: 0.25}", nil},
		"in a flow that is off": {"from: {stream: b}", "enabled: false\n    from: {stream: b}", nil},
		"two of three": {
			"{soft: 0.5}}\n", "{hard: 0.1}}\n  third:\n    from: {stream: c}\n    stages: [handle: {with: feedback, policy: {ok: 0.9}}]\n",
			[]string{
				warned("11:42", "second", "ok: 1, soft: 0.5, hard: 0.1"), warned("14:47", "third", "ok: 0.9, soft: 0.5, hard: 0"),
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			src := strings.Replace(file, tt.old, tt.replacement, 1)
			if tt.old != "" && src == file {
				t.Fatalf("%q is not in the file", tt.old)
			}
			f, d := flows.Parse("flows.yaml", []byte(src), nil)
			if d != nil {
				t.Fatal(d)
			}
			_, d = router.NewPlan(f, stages.Builtin())
			var got []string
			for _, x := range d {
				got = append(got, x.String())
				if len(x.Related) != 1 || x.Related[0].Pos.Line != 7 {
					t.Errorf("related places %v, want the first policy's", x.Related)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
