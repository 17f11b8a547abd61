package router

import (
	"fmt"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/stages"
)

// CodeProviderPolicy is the code of the warning that stages give one provider
// different policies.
const CodeProviderPolicy = "provider-policy-conflict"

// warnPolicies warns of each stage that gives a provider another policy than the
// first stage of the file does. A provider has one policy, that of its newest event:
// with two, each event of one flow would change what the levels of the other mean.
func warnPolicies(plan *Plan, d *flows.Diagnostics) {
	type source struct {
		policy stages.Policy
		scope  stages.Scope
	}
	first := make(map[string]source)
	for _, flow := range plan.Flows {
		if flow.Disabled != "" {
			continue
		}
		for _, s := range flow.Stages {
			c, ok := s.Config.(stages.SetsPolicy)
			if !ok {
				continue
			}
			provider, policy := c.SetsPolicy()
			if provider == "" {
				continue
			}
			known, ok := first[provider]
			if !ok {
				first[provider] = source{policy, s.Scope}
				continue
			}
			if known.policy == policy {
				continue
			}
			d.Add(flows.Diagnostic{
				Pos: s.Scope.At("policy"), Severity: flows.Warning, Code: CodeProviderPolicy,
				Message: fmt.Sprintf("%s: policy: provider %q gets {%s} here and {%s} from flow %q, and has one policy, that of "+
					"its newest event: give both flows the same, or each its own provider",
					s.Scope.Where(), provider, scales(policy), scales(known.policy), known.scope.Flow),
				Related: []flows.Related{{Pos: known.scope.At("policy"), Message: "the other policy is here"}},
			})
		}
	}
}

func scales(p stages.Policy) string {
	return fmt.Sprintf("ok: %v, soft: %v, hard: %v", p.OK, p.Soft, p.Hard)
}
