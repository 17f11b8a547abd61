package router_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
)

// Ids are a stream's own: a flow that reads another stream has seen none of its events,
// and one that reads what another did has seen what that did.
func TestApplyForgetsAnotherStream(t *testing.T) {
	const src = `
version: 1
flows:
  a:
    from: {stream: telemetry.feedback, start: oldest}
    stages: [dedupe, handle: {with: test}]
`
	for _, tt := range []struct{ name, next string }{
		{"moved", strings.Replace(src, "telemetry.feedback", "second", 1)},
		{"renamed, and another of its name", strings.Replace(src, "telemetry.feedback", "second", 1) +
			"  b:\n    from: {stream: telemetry.feedback}\n    stages: [dedupe, handle: {with: test}]\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			onBothBuses(t, func(t *testing.T, l *line) {
				n := newNumbers()
				run := start(t, l, src, n.handle, nil)
				for i := range 5 {
					run.put(fmt.Sprint("1-", i), feedback("c", "ok", i))
				}
				run.settled(5)
				run.apply(tt.next, n.handle)
				for i := range 5 {
					msg := message.NewMessage(fmt.Sprint("1-", i), []byte(feedback("c", "ok", i)))
					msg.Metadata.Set("original_id", fmt.Sprint("1-", i))
					if err := l.transport.Publisher().Publish("mdp:mdp.second", msg); err != nil {
						t.Fatal(err)
					}
				}
				run.eventually("the other stream's events to run", func() bool { return run.count.of("success") == 10 })
				if strings.Contains(tt.next, "  b:") {
					run.put("1-1", feedback("c", "ok", 1))
					run.eventually("the event to be known", func() bool { return run.count.of("duplicate") == 1 })
				}
			})
		})
	}
}
