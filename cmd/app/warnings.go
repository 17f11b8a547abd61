package app

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/router"
	"github.com/mjdevaccount/pulseflow/stages"
)

// codeRetryLongerThanIdle is the code of the warning that an event's retries can
// outlast bus.redis.max_idle.
const codeRetryLongerThanIdle = "retry-longer-than-idle"

// denyAll makes every warning an error.
const denyAll = "all"

// warning is a code and what it stands for, as help shows it.
type warning struct{ code, meaning string }

// warnings lists every code that a file can be warned under.
func warnings() []warning {
	return []warning{
		{stages.CodeDedupeAfterEffect, "a dedupe stage stands behind rate-apply, which has taken effect by then"},
		{stages.CodePolicyOrder, "a worse pressure level has the higher scale"},
		{router.CodeProviderPolicy, "flows give one provider different policies"},
		{flows.CodeRegistryUnused, "registry.enabled is true, and this version uses no registry"},
		{router.CodeFlowLoop, "flows publish in a circle, which a stage of theirs may end"},
		{codeRetryLongerThanIdle, "on Redis, the waits of a flow's retries can exceed bus.redis.max_idle"},
		{codeRatesNotShared, "on Redis, rates.share is off, so the processes of a group come to different rates"},
	}
}

// deny makes errors of the warnings under the given codes.
func deny(d flows.Diagnostics, codes []string) {
	for i := range d {
		if d[i].Severity == flows.Warning && (slices.Contains(codes, d[i].Code) || slices.Contains(codes, denyAll)) {
			d[i].Severity = flows.Error
		}
	}
}

// validCodes refuses a code that no warning has: a slip would deny nothing.
func validCodes(codes []string) error {
	known := []string{denyAll}
	for _, w := range warnings() {
		known = append(known, w.code)
	}
	for _, code := range codes {
		if slices.Contains(known, code) {
			continue
		}
		hint := ""
		if near := flows.Nearest(code, known); near != "" {
			hint = fmt.Sprintf(" (did you mean %q?)", near)
		}
		return fmt.Errorf("--deny %q: no warning has this code%s; codes: %s", code, hint, strings.Join(known, ", "))
	}
	return nil
}

var (
	allowComment = regexp.MustCompile(`(?:^|\s)#\s*pulseflow:\s*allow\s+([a-z][a-z-]*(?:\s*,\s*[a-z][a-z-]*)*)`)
	codeInList   = regexp.MustCompile(`[a-z][a-z-]*`)
)

// silence drops the warnings that a comment of the file allows: one at the end of
// the warning's line, or in the lines of comment right above it.
func silence(d flows.Diagnostics, src sources) flows.Diagnostics {
	return slices.DeleteFunc(d, func(x flows.Diagnostic) bool {
		return x.Severity == flows.Warning && src.allows(x)
	})
}

func (s sources) allows(d flows.Diagnostic) bool {
	text, ok := s.line(d.Pos.File, d.Pos.Line)
	for n := d.Pos.Line - 1; ok; n-- {
		if m := allowComment.FindStringSubmatch(text); m != nil &&
			slices.Contains(codeInList.FindAllString(m[1], -1), d.Code) {
			return true
		}
		if text, ok = s.line(d.Pos.File, n); ok {
			ok = strings.HasPrefix(strings.TrimSpace(text), "#")
		}
	}
	return false
}

// warnRetry warns of flows whose retries can outlast max_idle. Our own consumers
// leave an entry with the live process that holds it, however long; but after that
// time a start no longer waits for what is pending, and another program of the group
// may take what a paused process holds.
func warnRetry(file *flows.File, d *flows.Diagnostics) {
	if file.Bus.Backend != "redis" {
		return
	}
	idle := file.Bus.Redis.MaxIdle
	for _, w := range file.Flows {
		if worst := longestWait(w.Retry); w.Enabled && worst > idle {
			d.Warnf(w.Pos, codeRetryLongerThanIdle,
				"flow %q: retry: an event that keeps failing waits up to %s between its attempts in all, longer than "+
					"bus.redis.max_idle (%s), after which it may run elsewhere too when this process pauses: lower retry.max "+
					"or retry.max_interval, or raise max_idle",
				w.Name, worst.Round(time.Millisecond), idle)
		}
	}
}

// longestWait is the sum of all waits of an event that fails each time, every one of
// them as long as jitter makes it.
func longestWait(r flows.Retry) time.Duration {
	wait, sum := float64(r.Initial), 0.0
	for range r.Max {
		sum += wait * (1 + r.Jitter)
		wait = min(wait*r.Multiplier, float64(r.MaxInterval))
	}
	const longest = float64(1 << 62)
	return time.Duration(min(sum, longest))
}
