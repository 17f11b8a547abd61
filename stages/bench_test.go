package stages

import (
	"context"
	"log/slog"
	"strconv"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/flows"
)

// BenchmarkStage shows what each kind of stage costs an event, by its example.
func BenchmarkStage(b *testing.B) {
	reg := Builtin()
	for _, kind := range reg.Kinds() {
		b.Run(kind.Name, func(b *testing.B) {
			example := kind.Example
			if kind.Name == "throttle" { // at a rate that never makes it wait
				example = "- throttle: {rate: 1e9, burst: 1e9, key: key}"
			}
			benchmarkStages(b, reg, before[kind.Name]+indent(example))
		})
	}
}

// BenchmarkShippedStages is the stages of the built-in flow.
func BenchmarkShippedStages(b *testing.B) {
	benchmarkStages(b, Builtin(), `      - validate: {schema: telemetry.FeedbackEvent}
      - dedupe: {key: id}
      - handle: {with: feedback}
      - rate-apply: {publish: telemetry.rate_adjustment}
`)
}

// benchmarkStages runs events through stages and nothing else.
func benchmarkStages(b *testing.B, reg *Registry, list string) {
	f, d := flows.Parse("flows.yaml", file(list), func(string) (string, bool) { return "", false })
	planned := reg.Resolve(f.Flows[0].Stages, Scope{
		Flow: "feedback", SourceKey: f.Flows[0].From.Key, Providers: []string{"ibkr"}, Key: f.StreamKey,
	}, &d)
	if d.HasErrors() {
		b.Fatal(d)
	}
	built, err := Build(planned, Deps{
		Flow: "feedback", Stream: "telemetry.feedback", Clock: newTestClock(), Rates: newLedger(), Publisher: nowhere{},
		Observer: silent{}, Logger: slog.New(slog.DiscardHandler), Limiters: limiters,
	})
	if err != nil {
		b.Fatal(err)
	}
	handler := func(*message.Message) ([]*message.Message, error) { return nil, nil }
	middlewares := Middlewares(built)
	for i := len(middlewares) - 1; i >= 0; i-- {
		handler = middlewares[i](handler)
	}
	data := []byte(feedback("bars_1", "ok", at))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		e := event.Decoder{}.Decode(strconv.Itoa(i), data)
		msg := &message.Message{UUID: e.ID, Payload: e.Data}
		msg.SetContext(&Delivery{Context: context.Background(), Event: e})
		if _, err := handler(msg); err != nil {
			b.Fatal(err)
		}
	}
}

// nowhere is a publisher that keeps nothing.
type nowhere struct{}

func (nowhere) Publish(string, ...*message.Message) error { return nil }
func (nowhere) Close() error                              { return nil }

// silent is an Observer that counts nothing.
type silent struct{}

func (silent) ValidationFailed(string, string)  {}
func (silent) HashMismatched(string)            {}
func (silent) QueueDepth(int64)                 {}
func (silent) FeedbackProcessed(string, string) {}
func (silent) Published(string, string, string) {}
func (silent) RateStale(string)                 {}
