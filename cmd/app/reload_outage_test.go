package app

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/internal/capture"
	"github.com/mjdevaccount/pulseflow/internal/redistest"
	"github.com/mjdevaccount/pulseflow/internal/telemetry"
	"github.com/mjdevaccount/pulseflow/stages"
)

// producer writes numbered events to a stream.
type producer struct {
	t      *testing.T
	client *redis.Client
	stream string
	n      int
}

func (p *producer) produce(n int) {
	p.t.Helper()
	pipe := p.client.Pipeline()
	for range n {
		data := fmt.Sprintf(`{"id": "%d", "ts": 1.7e9, "key": "k%d", "meta": {"schema_id": "a"}, "payload": {}}`, p.n, p.n%7)
		pipe.XAdd(context.Background(), &redis.XAddArgs{Stream: p.stream, Values: []string{"data", data, "original_id", fmt.Sprint(p.n)}})
		p.n++
	}
	if _, err := pipe.Exec(context.Background()); err != nil {
		p.t.Fatal(err)
	}
}

// A file that is loaded while the server of a bus is out runs as soon as that is back; the
// flows of the other bus go on meanwhile, also those that are swapped.
func TestReloadDuringAnOutage(t *testing.T) {
	const file = `version: 1
bus: {backend: redis, redis: {url: %s, consumer: worker, lease: 2s}}
buses:
  second: {backend: redis, redis: {url: %s, consumer: worker, lease: 2s}}
admin: {listen: "off"}
shutdown_timeout: 3s
providers:
  ibkr: {rate: 60}
flows:
  here:
    from: {stream: near, group: here, start: oldest}
    stages: [dedupe: {}, handle: {with: oracle}]
    retry: {max: 3}
  there:
    from: {bus: second, stream: far, group: there, start: oldest}
    stages: [dedupe: {}, handle: {with: oracle}]
    retry: {max: 3}
`
	const here, there = "here", "there"
	for name, tt := range map[string]struct {
		out  string // the flow whose server is out
		kill bool
	}{
		"the second hangs":   {there, false},
		"the second is gone": {there, true},
		"the first hangs":    {here, false},
		"the first is gone":  {here, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			servers := map[string]*redistest.Server{
				here: redistest.Start(t, redistest.WithAOF()), there: redistest.Start(t, redistest.WithAOF()),
			}
			events := map[string]*producer{
				here:  {t: t, client: servers[here].Client(t), stream: "mdp:mdp.near"},
				there: {t: t, client: servers[there].Client(t), stream: "mdp:mdp.far"},
			}
			o := &oracle{runs: make(map[string]map[int]int), at: make(map[string]map[int]bool)}
			reg := stages.Builtin()
			if err := reg.AddHandler("oracle", o.handle); err != nil {
				t.Fatal(err)
			}
			base := fmt.Sprintf(file, servers[here].URL(), servers[there].URL())
			h := host(t, reg, base)
			all := func(flow string) func() bool {
				return func() bool { handled, _ := o.account(flow); return handled == events[flow].n }
			}
			events[here].produce(500)
			events[there].produce(500)
			h.eventually("the first events", func() bool { return all(here)() && all(there)() })

			out, well := tt.out, here
			if out == here {
				well = there
			}
			events[out].produce(500) // some of them in flight
			if tt.kill {
				servers[out].Kill()
			} else {
				servers[out].Pause()
			}
			extra := fmt.Sprintf("  extra:\n    from: {%s, group: extra, start: oldest}\n    stages: [handle: {with: oracle}]\n",
				map[string]string{here: "stream: near", there: "bus: second, stream: far"}[out])
			for i, text := range []string{
				strings.ReplaceAll(base, "max: 3", "max: 4"), // both are swapped
				strings.ReplaceAll(base, "max: 3", "max: 4") + extra,
				strings.ReplaceAll(base, "max: 3", "max: 5") + extra, // and both again, out or not
			} {
				began := time.Now()
				h.becomes(text, telemetry.ReloadSuccess)
				if took := time.Since(began); took > 10*time.Second {
					t.Errorf("reload %d took %s", i, took)
				}
				events[well].produce(500)
				h.eventually("the events of the bus that is well", all(well))
			}
			if tt.kill {
				servers[out].Restart()
			} else {
				servers[out].Resume()
			}
			events[out].produce(500)
			h.eventually("the events of the bus that was out", all(out))
			h.eventually("the flow that was added", func() bool { handled, _ := o.account("extra"); return handled == events[out].n })
			for flow, p := range events {
				h.eventually("all to be acknowledged", func() bool {
					groups, err := p.client.XInfoGroups(context.Background(), p.stream).Result()
					if err != nil {
						return false
					}
					for _, g := range groups {
						if g.Pending != 0 || g.Lag != 0 {
							return false
						}
					}
					return len(groups) == map[bool]int{true: 2, false: 1}[flow == out]
				})
			}
			if len(o.overlap) != 0 {
				t.Errorf("run twice at once: %v", o.overlap)
			}
			for flow := range events {
				_, again := o.account(flow)
				t.Logf("%s: %d of them again", flow, again)
			}
			h.stop()
		})
	}
}

// Flows that wait for each other over full streams, and a producer that waits for them, are
// swapped all the same; what was taken is handled once.
func TestReloadOfFullStreams(t *testing.T) {
	const file = `version: 1
bus: {backend: inmem, capacity: 5, lanes: 2}
admin: {listen: "off"}
shutdown_timeout: 300ms
flows:
  first:
    from: {stream: first, group: first}
    stages: [handle: {with: oracle}]
    to: {stream: second}
    retry: {max: 3}
  second:
    from: {stream: second, group: second}
    stages: [handle: {with: held}]
    retry: {max: 3}
`
	const events = 60
	o := &oracle{runs: make(map[string]map[int]int), at: make(map[string]map[int]bool)}
	release := make(chan struct{})
	reg := stages.Builtin()
	if err := reg.AddHandler("oracle", o.handle); err != nil {
		t.Fatal(err)
	}
	err := reg.AddHandler("held", func(ctx context.Context, d *stages.Delivery, c stages.HandleConfig, deps stages.Deps) error {
		select {
		case <-release:
			d.Event.ID = d.Event.ID[strings.LastIndexByte(d.Event.ID, '/')+1:] // without the stream it came from
			return o.handle(ctx, d, c, deps)
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	h := host(t, reg, file)
	fed := make(chan error, 1)
	go func() {
		var list []recorded
		for n := range events {
			list = append(list, recorded{topic: "first", Entry: capture.Entry{
				ID: fmt.Sprint(n), Data: []byte(fmt.Sprintf(`{"id": "%d", "ts": 1.7e9, "key": "k%d", "meta": {"schema_id": "a"}, "payload": {}}`, n, n%3)),
			}})
		}
		fed <- h.feedAll(context.Background(), list)
	}()
	memory, ok := h.buses.of(flows.DefaultBus).backend.(memoryBackend)
	if !ok {
		t.Fatal("not on the in-memory bus")
	}
	h.eventually("the streams to be full", func() bool {
		first, _ := memory.Depth("mdp:mdp.first", "first")
		second, _ := memory.Depth("mdp:mdp.second", "second")
		return first == 5 && second == 5
	})
	began := time.Now()
	for i, text := range []string{
		strings.Replace(file, "max: 3", "max: 4", 1),
		strings.ReplaceAll(file, "max: 3", "max: 5"),
		strings.ReplaceAll(file, "max: 3", "max: 6"),
	} {
		h.becomes(text, telemetry.ReloadSuccess)
		if handled, _ := o.account("second"); handled != 0 {
			t.Fatalf("reload %d: handled although held", i)
		}
	}
	t.Logf("three reloads took %s", time.Since(began))
	close(release)
	if err := <-fed; err != nil {
		t.Fatal(err)
	}
	for _, flow := range []string{"first", "second"} {
		h.eventually(flow+" to have handled all", func() bool { handled, _ := o.account(flow); return handled == events })
	}
	for _, s := range h.router.Status() {
		if s.Lost != 0 {
			t.Errorf("%s: %d lost", s.Name, s.Lost)
		}
	}
	if _, again := o.account("second"); again != 0 {
		t.Errorf("%d handled again", again)
	}
	if len(o.overlap) != 0 {
		t.Errorf("run twice at once: %v", o.overlap)
	}
}

// Hundreds of edits and signals at once: what runs in the end is what the file says in the
// end, and they were a few reloads only.
func TestReloadStorm(t *testing.T) {
	path := writeFile(t, fmt.Sprintf(watched, 1))
	p := launch(t, nil, "--config", path, "--watch")
	p.eventually("the flow to run", func() bool { status, _ := p.get("/readyz"); return status == 200 })
	const edits = 400
	for i := range edits {
		text := fmt.Sprintf(watched, 2+i%7)
		if i%3 == 0 {
			text = "version: 1\nflows: [" // half written
		}
		rewrite(t, path, text)
		if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	rewrite(t, path, fmt.Sprintf(watched, 9))
	last := time.Now()
	p.eventually("the last edit to be loaded", func() bool {
		r := p.config().LastReload
		return r != nil && r.Time.After(last) && r.Error == ""
	})
	if status, answer := p.reload("secret"); status != 200 || !strings.Contains(answer, `"result": "unchanged"`) {
		t.Errorf("the last edit does not run: %d %s", status, answer)
	}
	if status, page := p.get("/flows"); status != 200 || !strings.Contains(page, `"state": "running"`) {
		t.Errorf("%d %s", status, page)
	}
	asked := p.metric("pulseflow_config_reloads_total")
	t.Logf("%.0f reloads of %d edits and as many signals", asked, edits)
	p.stop()
}
