package stages

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"github.com/mjdevaccount/pulseflow/event"
)

func TestHandleMapsLevelToAdjustment(t *testing.T) {
	const stage = "      - handle: {with: feedback, policy: {soft: 0.25}}\n"
	for level, want := range map[string]event.Level{
		"ok": event.LevelOK, "soft": event.LevelSoft, "hard": event.LevelHard,
	} {
		t.Run(level, func(t *testing.T) {
			var got *Adjustment
			b := start(t, Builtin(), stage, func(msg *message.Message) error {
				got = From(msg.Context()).Adjustment
				return nil
			})
			if r := b.send("1-0", feedback("bars_1", level, at)); r.err != nil {
				t.Fatal(r.err)
			}
			if diff := cmp.Diff(&Adjustment{
				Provider: "ibkr", Coordinator: "bars_1", Level: want,
				Policy: Policy{OK: 1, Soft: 0.25, Hard: 0}, Time: at,
			}, got); diff != "" {
				t.Errorf("adjustment (-want +got):\n%s", diff)
			}
			if n := b.count.of("feedback ibkr " + level); n != 1 {
				t.Errorf("counted %d feedback events, want 1", n)
			}
			if b.count.depth != 7 {
				t.Errorf("queue depth %d, want 7", b.count.depth)
			}
		})
	}
}

func TestHandleRefusesWhatItCannotUse(t *testing.T) {
	whole := feedback("bars_1", "ok", at)
	for name, data := range map[string]string{
		"unknown level":  strings.Replace(whole, `"level": "ok"`, `"level": "panic"`, 1),
		"no coordinator": strings.Replace(whole, `"coordinator_id": "bars_1", `, "", 1),
		"no ts":          strings.Replace(whole, `"source": "store", "ts"`, `"source": "store", "tz"`, 1),
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t, Builtin(), "      - handle: {with: feedback}\n", nil)
			r := b.send("1-0", data)
			if !IsPermanent(r.err) || ErrorKind(r.err) != KindSchema || r.stage != "handle" {
				t.Errorf("got %+v (kind %q), want a permanent schema error of handle", r, ErrorKind(r.err))
			}
			if n := len(b.count.counts); n != 0 {
				t.Errorf("counted %v, want nothing", b.count.counts)
			}
		})
	}
}

func TestHandleCountsOnlyWhatSucceeded(t *testing.T) {
	failure := errors.New("later")
	b := start(t, Builtin(), "      - handle: {with: feedback}\n", func(*message.Message) error { return failure })
	if r := b.send("1-0", feedback("a", "ok", at)); !errors.Is(r.err, failure) {
		t.Fatalf("error %v, want the later stage's", r.err)
	}
	if n := b.count.of("feedback ibkr ok"); n != 0 {
		t.Errorf("counted %d, want 0", n)
	}
}

func TestHandlerOfOnesOwn(t *testing.T) {
	reg := Builtin()
	var seen string
	if err := reg.AddHandler("note", func(_ context.Context, d *Delivery, _ HandleConfig, _ Deps) error {
		seen = d.Event.Key
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	b := start(t, reg, "      - handle: {with: note}\n", nil)
	if r := b.send("1-0", feedback("bars_9", "ok", at)); r.err != nil || seen != "bars_9" {
		t.Errorf("result %+v, handler saw %q", r, seen)
	}
	if err := reg.AddHandler("note", handleFeedback); err == nil {
		t.Error("a handler's name was given twice")
	}
}

func TestHandleDiagnostics(t *testing.T) {
	for list, want := range map[string]string{
		"      - handle: {with: feedback, provider: ibrk}\n": `flows.yaml:8:44: flow "feedback": stage 1 (handle): ` +
			`provider: unknown provider "ibrk" (did you mean "ibkr"?); known: ibkr`,
		"      - handle: {with: feedback, policy: {ok: 0.2, soft: 0.5}}\n": "[policy-order]",
		"      - handle: {with: feedbck}\n":                                `did you mean "feedback"?`,
		"      - handle\n":                                                 "with",
		"      - handle: {with: feedback, policy: {soft: 1.5}}\n":          "soft",
	} {
		_, d := resolve(t, Builtin(), file(list))
		if !strings.Contains(d.String(), want) {
			t.Errorf("%s: %q, want it to contain %q", strings.TrimSpace(list), d, want)
		}
	}
}
