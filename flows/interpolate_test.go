package flows

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestInterpolate(t *testing.T) {
	env := func(name string) (string, bool) {
		v, ok := map[string]string{"A": "1", "B_2": "two", "EMPTY": "", "DOLLAR": "${A}", "_x": "x"}[name]
		return v, ok
	}
	tests := []struct {
		text, want, fault string
		part              int
	}{
		{text: "", want: ""},
		{text: "plain $A $ {A} }", want: "plain $A $ {A} }"},
		{text: "${A}", want: "1"},
		{text: "<${A}${B_2}>${_x}", want: "<1two>x"},
		{text: "${NONE:-fallback}", want: "fallback"},
		{text: "${NONE:-}", want: ""},
		{text: "${EMPTY:-fallback}", want: "fallback"},
		{text: "${A:-fallback}", want: "1"},
		{text: "${NONE:-a:-b}", want: "a:-b"},
		{text: "${NONE:-redis://h:1/0}", want: "redis://h:1/0"},
		{text: "$${A}", want: "${A}"},
		{text: "$$${A}", want: "$${A}"},
		{text: "$${${A}}", want: "${1}"},
		{text: "${DOLLAR}", want: "${A}"},
		{text: "$${", want: "${"},
		{text: "é${A}", want: "é1"},
		{text: "${NONE}", fault: "variable NONE is not set: set it, or give a default as in ${NONE:-default}"},
		{
			text: "$${A}${EMPTY}", part: 1,
			fault: "variable EMPTY is empty: give it a value, or a default as in ${EMPTY:-default}",
		},
		{text: "${A}${", part: 1, fault: `"${" has no closing }: add it, or write $${ for a plain ${`},
		{text: "${}", fault: `"${}" is not a variable: write ${NAME} or ${NAME:-default}, and $${ for a plain ${`},
		{text: "${1A}", fault: `"${1A}" is not a variable: write ${NAME} or ${NAME:-default}, and $${ for a plain ${`},
		{text: "${A }", fault: `"${A }" is not a variable: write ${NAME} or ${NAME:-default}, and $${ for a plain ${`},
		{text: "${A:?no}", fault: `"${A:?no}" is not a variable: write ${NAME} or ${NAME:-default}, and $${ for a plain ${`},
		{text: "${NONE:-{ns}}", fault: "the default of NONE must not contain braces"},
		{text: "${A:-${B_2}}", fault: "the default of A must not contain braces"},
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) {
			got := interpolate(tt.text, env)
			if got.fault != tt.fault || got.fault != "" && got.part != tt.part {
				t.Fatalf("fault %q in part %d, want %q in part %d", got.fault, got.part, tt.fault, tt.part)
			}
			if diff := cmp.Diff(tt.want, got.text); diff != "" {
				t.Errorf("text differs (-want +got):\n%s", diff)
			}
		})
	}
}
