package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/internal/admin"
	"github.com/mjdevaccount/pulseflow/internal/telemetry"
	"github.com/mjdevaccount/pulseflow/router"
)

// What makes the file be loaded again.
const (
	triggerRequest = "request" // POST /reload
	triggerSignal  = "signal"  // SIGHUP
	triggerFile    = "file"    // the file, or one that it refers to, has changed
)

// loadPlan reads and plans the file again. The plan is usable only when the diagnostics
// have no errors.
type loadPlan func() (*router.Plan, flows.Diagnostics)

// reloader loads the file of a running service again.
type reloader struct {
	service *service
	load    loadPlan
	metrics *telemetry.Reloads
	hangups <-chan os.Signal // nil never asks
	watch   *fileWatch       // nil without --watch
	asked   chan string      // the trigger of a reload that is to come: one stands for many

	work sync.Mutex // held by a reload: one after another

	mu         sync.Mutex
	generation int
	loaded     time.Time // when the file that runs was loaded
	last       *reloadStatus
}

// reloadStatus is what came of loading the file again.
type reloadStatus struct {
	// Result is one of telemetry.Reload*.
	Result  string    `json:"result"`
	Time    time.Time `json:"time"`
	Trigger string    `json:"trigger"`
	// Generation is that of the file which runs now.
	Generation  int     `json:"generation"`
	TookSeconds float64 `json:"took_seconds"`
	// Flows tells what became of each flow, null where nothing was tried.
	Flows *router.Change `json:"flows"`
	// Error is why the file does not run, "" when it does.
	Error string `json:"error,omitempty"`
	// Diagnostics are the problems of the file, its warnings included.
	Diagnostics []jsonDiagnostic `json:"diagnostics"`
}

func newReloader(s *service, load loadPlan) (*reloader, error) {
	metrics, err := telemetry.NewReloads(s.metrics)
	if err != nil {
		return nil, err
	}
	r := &reloader{service: s, load: load, metrics: metrics, asked: make(chan string, 1), generation: 1, loaded: time.Now()}
	metrics.Runs(r.generation, r.loaded)
	return r, nil
}

// run reloads when a signal or the watched files ask for it, until ctx ends.
func (r *reloader) run(ctx context.Context) {
	var watching sync.WaitGroup
	defer watching.Wait()
	if r.watch != nil {
		watching.Go(func() { r.watch.files.Run(ctx, func() { r.ask(triggerFile) }) })
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.hangups:
			r.ask(triggerSignal)
		case trigger := <-r.asked:
			_, _ = r.reload(ctx, trigger) // it has been logged
		}
	}
}

// ask makes the file be loaded again soon.
func (r *reloader) ask(trigger string) {
	select {
	case r.asked <- trigger:
	default: // one that is to come will read what there is then
	}
}

// requested is admin.Sources.Reload.
func (r *reloader) requested(ctx context.Context) (any, error) {
	// Who asked may go away; a reload that has begun goes on.
	return r.reload(context.WithoutCancel(ctx), triggerRequest)
}

// status is admin.Sources.Config.
func (r *reloader) status() map[string]any {
	r.mu.Lock()
	defer r.mu.Unlock()
	return map[string]any{"generation": r.generation, "loaded": r.loaded, "last_reload": r.last}
}

// reload loads the file and applies it. The error is admin.ErrInvalid where the file
// cannot run, admin.ErrUnavailable where nothing can be changed now, and else that of
// what failed.
func (r *reloader) reload(ctx context.Context, trigger string) (*reloadStatus, error) {
	r.work.Lock()
	defer r.work.Unlock()
	start := time.Now()
	plan, d := r.load()
	if r.watch != nil {
		r.watch.follow(plan)
	}
	before := r.service.plan()
	if !d.HasErrors() { // else it is not known what the file says
		d = append(d, fixedSettings(before, plan, r.service.buses)...)
		d.Sort()
	}
	status := &reloadStatus{Time: start, Trigger: trigger, Diagnostics: []jsonDiagnostic{}}
	for _, x := range d {
		status.Diagnostics = append(status.Diagnostics, jsonOf(x))
	}
	var err error
	switch {
	case d.HasErrors():
		status.Result = telemetry.ReloadRejected
		err = kindOfError{d.Err(), admin.ErrInvalid}
	case samePlan(before, plan) && len(r.service.router.Down()) == 0:
		status.Result = telemetry.ReloadUnchanged
	default:
		var change router.Change
		change, err = r.service.apply(ctx, plan)
		status.Flows = &change
		status.Result = resultOf(err)
	}
	if errors.Is(err, router.ErrNotRunning) {
		return status, kindOfError{errors.New("the service is starting or stopping"), admin.ErrUnavailable}
	}
	if err != nil {
		status.Error = err.Error()
		if status.Result == telemetry.ReloadRejected {
			err = kindOfError{err, admin.ErrInvalid}
		}
	}
	status.TookSeconds = time.Since(start).Round(time.Microsecond).Seconds()
	r.note(status)
	r.tell(status, d)
	return status, err
}

// resultOf is what an apply that ended with err has come to.
func resultOf(err error) string {
	if err == nil {
		return telemetry.ReloadSuccess
	}
	if _, ok := errors.AsType[*router.RolledBackError](err); ok {
		return telemetry.ReloadRolledBack
	}
	if _, ok := errors.AsType[*router.BuildError](err); ok {
		return telemetry.ReloadRejected
	}
	return telemetry.ReloadFailed
}

// note keeps what came of a reload.
func (r *reloader) note(status *reloadStatus) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if status.Result == telemetry.ReloadSuccess {
		r.generation++
		r.loaded = status.Time
	}
	status.Generation = r.generation
	r.last = status
	r.metrics.Reloaded(status.Result)
	if status.Error == "" {
		r.metrics.Runs(r.generation, status.Time)
	}
}

// tell logs what came of a reload, each problem of the file by itself.
func (r *reloader) tell(status *reloadStatus, d flows.Diagnostics) {
	log := r.service.log.With("trigger", status.Trigger, "generation", status.Generation)
	for _, x := range d {
		if x.Severity == flows.Warning {
			log.Warn("warning about the file", "at", x.Pos.String(), "code", x.Code, "err", x.Message)
			continue
		}
		log.Error("problem in the file", "at", x.Pos.String(), "err", x.Message)
	}
	switch status.Result {
	case telemetry.ReloadSuccess:
		log.Info("file loaded again", "flows", status.Flows.String(), "took", time.Since(status.Time).Round(time.Millisecond))
	case telemetry.ReloadUnchanged:
		log.Info("file loaded again: it says what runs already")
	case telemetry.ReloadRejected:
		if !d.HasErrors() {
			log.Error("problem in the file", "err", status.Error)
		}
		log.Error("file not loaded again: what ran before runs on")
	case telemetry.ReloadRolledBack:
		log.Error("file not loaded again: what ran before was started again", "err", status.Error)
	default:
		log.Error("file not loaded again, and flows are down: restart the process", "err", status.Error)
	}
}

// apply makes the service run another plan.
func (s *service) apply(ctx context.Context, plan *router.Plan) (router.Change, error) {
	before := s.plan()
	// While flows of both may acknowledge, what either has changed is shared first.
	s.adjusts.Store(adjustingOf(before, plan))
	change, err := s.router.Apply(plan, func(p *router.Plan) error {
		s.buses.follow(p)
		return s.rates.Configure(ctx, p.File.Providers, policies(p))
	})
	if err != nil {
		s.adjusts.Store(adjustingOf(before))
		return change, err
	}
	s.running.Store(plan)
	s.adjusts.Store(adjustingOf(plan))
	if err := s.rates.Announce(); err != nil {
		s.log.Warn("new rates not announced; the next event makes that good", "err", err)
	}
	for _, p := range plan.Flows {
		if old := slices.IndexFunc(before.Flows, func(o router.FlowPlan) bool { return o.Name == p.Name }); p.Disabled != "" &&
			(old < 0 || before.Flows[old].Disabled != p.Disabled) {
			s.log.Warn("flow does not run", "flow", p.Name, "stream", p.Topic, "err", p.Disabled)
		}
	}
	return change, nil
}

// samePlan reports whether a plan says nothing new.
func samePlan(before, next *router.Plan) bool {
	return len(next.File.Differences(before.File)) == 0 &&
		slices.EqualFunc(before.Flows, next.Flows, router.FlowPlan.Equal) &&
		slices.EqualFunc(before.File.Providers, next.File.Providers, sameProvider) &&
		maps.Equal(policies(before), policies(next))
}

// sameProvider compares what is declared, wherever that stands.
func sameProvider(a, b flows.Provider) bool {
	a.Pos, b.Pos = flows.Position{}, flows.Position{}
	return a == b
}

// fixedSettings reports what the file has changed that cannot change while the process
// runs, with the buses that are open.
func fixedSettings(before, next *router.Plan, open buses) flows.Diagnostics {
	var d flows.Diagnostics
	for _, s := range next.File.Differences(before.File) {
		if why := fixed(s.Path, before, open); why != "" {
			d.Errorf(s.Pos, "%s has changed, and %s: restart the process to change it", s.Path, why)
		}
	}
	if d.HasErrors() {
		return d
	}
	for i, p := range next.Flows {
		for _, name := range p.Buses() {
			if !slices.ContainsFunc(open, func(b openBus) bool { return b.Name == name }) && p.Disabled == "" {
				d.Errorf(next.File.Flows[i].Pos, "flow %q: no flow used %s when the process was started, so it is not open: "+
					"restart the process to use it", p.Name, busKey(name))
			}
		}
	}
	if was, is := sharing(before), sharing(next); next.File.Rates.Share && nameOf(was) != nameOf(is) && is != nil {
		d.Errorf(next.File.Rates.Pos, "rates: share: the levels would be shared on %s, which they were not when the process was "+
			"started: restart the process to share them", busKey(is.Name))
	}
	return d
}

func nameOf(b *flows.Bus) string {
	if b == nil {
		return ""
	}
	return b.Name
}

// fixed is why a setting cannot change while the process runs, "" for one that can.
// Those of a bus that is not open have no effect.
func fixed(path string, running *router.Plan, open buses) string {
	switch path {
	case "version", "enabled":
		return "" // part of each flow's plan
	case "shutdown_timeout":
		return "the buses were made with it"
	}
	section, _, _ := strings.Cut(path, ".")
	switch section {
	case "registry":
		return "" // not used
	case "admin":
		return "the listener was opened with it"
	case "rates":
		return "the levels are kept that way"
	}
	for _, b := range open {
		prefix := "bus."
		if b.Name != flows.DefaultBus {
			prefix = "buses." + b.Name + "."
		}
		if key, ok := strings.CutPrefix(path, prefix); ok {
			return fixedOfBus(key, b.Bus, running)
		}
	}
	if section == "bus" || section == "buses" {
		return "" // not open
	}
	return "the process was started with it"
}

// fixedOfBus is fixed for a key of an open bus.
func fixedOfBus(key string, b *flows.Bus, running *router.Plan) string {
	redis := b.Backend == backendRedis
	switch key {
	case "lanes", "redis.stream_key":
		return "" // part of each flow's plan
	case "namespace":
		if shared := sharing(running); shared != nil && shared.Name == b.Name && running.File.Rates.Share {
			return "shared rate levels are kept under it"
		}
		return ""
	case "capacity", "dead_letter_buffer":
		if redis {
			return "" // of the other backend
		}
	}
	if strings.HasPrefix(key, "redis.") && !redis {
		return ""
	}
	return "the bus was made with it"
}

// errNothingToWatch is for --watch without a file.
var errNothingToWatch = fmt.Errorf("--watch: there is no file to watch: name one with --config, or put %s in this directory", defaultFile)
