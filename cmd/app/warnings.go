package app

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/router"
	"github.com/mjdevaccount/pulseflow/stages"
)

// codeRetryLongerThanIdle is the code of the warning that an event's retries can
// outlast bus.redis.max_idle.
const codeRetryLongerThanIdle = "retry-longer-than-idle"

// The codes of the warnings that nothing can put events on a flow's stream, and that
// nobody can see its dead letters.
const (
	codeFlowUnfed         = "flow-unfed"
	codeDeadLettersUnread = "dead-letters-unread"
)

// codeAllowUnknown is the code of the warning that a comment which is to silence warnings
// names none that there is. It is no error: a later version may have the code.
const codeAllowUnknown = "allow-unknown"

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
		{codeFlowUnfed, "in memory and without a listener, nothing feeds the flow's stream"},
		{codeDeadLettersUnread, "in memory and without a listener, nobody can read the flow's dead letters"},
		{codeRetryLongerThanIdle, "on Redis, the waits of a flow's retries can exceed bus.redis.max_idle"},
		{codeRatesNotShared, "on Redis, rates.share is off, so the processes of a group come to different rates"},
		{codeAllowUnknown, "a comment that allows warnings names a code that there is not"},
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

// codes lists the codes of warnings.
func codes() []string {
	var list []string
	for _, w := range warnings() {
		list = append(list, w.code)
	}
	return list
}

// validCodes refuses a code that no warning has: a slip would deny nothing.
func validCodes(denied []string) error {
	known := append([]string{denyAll}, codes()...)
	for _, code := range denied {
		if slices.Contains(known, code) {
			continue
		}
		return fmt.Errorf("--deny %q: no warning has this code%s; codes: %s", code, flows.DidYouMean(code, known),
			strings.Join(known, ", "))
	}
	return nil
}

var (
	// allowComment is a comment that silences warnings. Its groups are the codes, with
	// commas between them, and the word that follows without a comma or a colon.
	allowComment = regexp.MustCompile(`(?:^|\s)(#\s*pulseflow:\s*allow)(?:\s+([^\s,:]+(?:\s*,\s*[^\s,:]+)*)(?:\s+([^\s,:]+))?|\W|$)`)
	// allowSlip is one that seems to be meant so: a word in the place of allow, and what
	// may be a code.
	allowSlip  = regexp.MustCompile(`(?i)(?:^|\s)(#\s*pulseflow\s*:?\s*(\w+))[\s:=]+([\w-]+)`)
	codeInList = regexp.MustCompile(`[^\s,]+`)
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
		if m := allowComment.FindStringSubmatch(text); m != nil && slices.Contains(codeInList.FindAllString(m[2], -1), d.Code) {
			return true
		}
		if text, ok = s.line(d.Pos.File, n); ok {
			ok = strings.HasPrefix(strings.TrimSpace(text), "#")
		}
	}
	return false
}

// warnAllowed warns of comments that are to silence a warning and name none that there is:
// those of the program, and those that stages of others gave here.
func warnAllowed(path string, src sources, d *flows.Diagnostics) {
	known := codes()
	for _, x := range *d {
		if x.Code != "" && !slices.Contains(known, x.Code) {
			known = append(known, x.Code)
		}
	}
	const most = 20 // that are told in one run
	told := 0
	for n := 1; told < most; n++ {
		text, ok := src.line(path, n)
		if !ok {
			return
		}
		if !strings.Contains(text, "#") {
			continue
		}
		warn := func(offset int, format string, args ...any) {
			at := flows.Position{File: path, Line: n, Column: 1 + utf8.RuneCountInString(text[:offset])}
			d.Warnf(at, codeAllowUnknown, format, args...)
			told++
		}
		m := allowComment.FindStringSubmatchIndex(text)
		switch {
		case m == nil:
			m = allowSlip.FindStringSubmatchIndex(text)
			if m != nil && flows.Nearest(text[m[4]:m[5]], []string{"allow"}) != "" && flows.Nearest(text[m[6]:m[7]], known) != "" {
				warn(m[2], "this comment silences nothing: it must begin with %q", "# pulseflow: allow ")
			}
			continue
		case m[4] < 0:
			warn(m[2], "this comment silences nothing: write # pulseflow: allow CODE, where CODE is one of %s", strings.Join(known, ", "))
			continue
		}
		for _, c := range codeInList.FindAllStringIndex(text[m[4]:m[5]], -1) {
			code := text[m[4]+c[0] : m[4]+c[1]]
			if slices.Contains(known, code) {
				continue
			}
			hint := flows.DidYouMean(code, known)
			if hint == "" {
				hint = "; codes: " + strings.Join(known, ", ")
			}
			warn(m[4]+c[0], "allow %q silences nothing: no warning has this code%s", shortened(code), hint)
		}
		if m[6] >= 0 && slices.Contains(known, text[m[6]:m[7]]) {
			warn(m[6], "allow %q silences nothing: it lacks the comma before it", text[m[6]:m[7]])
		}
	}
}

// warnRetry warns of flows whose retries can outlast max_idle. Our own consumers
// leave an entry with the live process that holds it, however long; but after that
// time a start no longer waits for what is pending, and another program of the group
// may take what a paused process holds.
func warnRetry(file *flows.File, d *flows.Diagnostics) {
	for _, w := range file.Flows {
		b := file.BusNamed(w.From.Bus)
		if b == nil || b.Backend != backendRedis {
			continue
		}
		key, idle := "bus", b.Redis.MaxIdle
		if b.Name != flows.DefaultBus {
			key = "buses." + b.Name
		}
		if worst := longestWait(w.Retry); w.Enabled && worst > idle {
			d.Warnf(w.Pos, codeRetryLongerThanIdle,
				"flow %q: retry: an event that keeps failing waits up to %s between its attempts in all, longer than "+
					"%s.redis.max_idle (%s), after which it may run elsewhere too when this process pauses: lower retry.max "+
					"or retry.max_interval, or raise max_idle",
				w.Name, worst.Round(time.Millisecond), key, idle)
		}
	}
}

// warnAlone warns of flows that stand alone: on the in-memory bus and with no listener,
// only other flows can write what a flow reads, and read what it leaves. On Redis
// other programs can, and a listener takes events and shows dead letters. fed is set
// when the command itself feeds the flows.
func warnAlone(plan *router.Plan, fed bool, d *flows.Diagnostics) {
	if plan.File.Bus.Backend != "inmem" || listening(plan.File) {
		return
	}
	written, read := make(map[string]bool), make(map[string]bool)
	for _, p := range plan.Flows {
		if p.Disabled != "" {
			continue
		}
		written[p.DeadLetterKey], read[p.StreamKey] = true, true
		for _, out := range p.Publications {
			written[out.Key] = true
		}
	}
	off := []flows.Related{{Pos: plan.File.Admin.Pos, Message: "no listener takes events or shows dead letters"}}
	for i, p := range plan.Flows {
		warn := func(code, format string, args ...any) {
			d.Add(flows.Diagnostic{
				Pos: plan.File.Flows[i].Pos, Severity: flows.Warning, Code: code,
				Message: fmt.Sprintf("flow %q: ", p.Name) + fmt.Sprintf(format, args...), Related: off,
			})
		}
		if p.Disabled != "" {
			continue
		}
		if !fed && !written[p.StreamKey] {
			warn(codeFlowUnfed, "nobody feeds stream %q: no flow publishes to it, and no listener takes events: give "+
				"admin.listen an address, or run with --feed", p.Topic)
		}
		if !read[p.DeadLetterKey] {
			warn(codeDeadLettersUnread, "nobody can read the dead letters on %q, which end with the process: give "+
				"admin.listen an address, or let a flow read them", p.DeadLetterTopic)
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
