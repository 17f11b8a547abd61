package adjust

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/mjdevaccount/pulseflow/internal/rate"
)

const (
	// pollEvery is how often the shared levels are looked at: what another process has
	// shared takes effect here within it and a round trip or two.
	pollEvery = 250 * time.Millisecond
	// shareBatch is how many records go into one call.
	shareBatch = 500
	// Between attempts that fail the wait grows from pollEvery to this, so that a level
	// is followed within a second of the end of an outage too.
	longestPoll = 500 * time.Millisecond
	// backlogAge is the age from which an event's effect waits foldWithin for what else
	// comes: long enough for a good part of a backlog, and nothing beside the age.
	backlogAge = time.Second
	foldWithin = 20 * time.Millisecond
)

// Registers are named values that processes share, in hashes: texts of digits that
// only grow. An error is a fault of whoever keeps them.
type Registers interface {
	// Check returns an error that names every permission that lacks.
	Check(ctx context.Context, keys []string) error
	// Versions tells cheaply whether hashes have changed. Of one that is at fault by
	// itself the version is -1, and Read says why.
	Versions(ctx context.Context, keys []string) (epochs []string, versions []int64, err error)
	// Read returns a whole hash.
	Read(ctx context.Context, key string) (registers map[string]string, epoch string, version int64, err error)
	// Raise sets registers to values unless they hold greater ones, which it returns, and
	// deletes those of drop that hold the value given. Before and after are the versions.
	Raise(ctx context.Context, key string, size int, values, drop map[string]string) (
		more map[string]string, epoch string, before, after int64, err error)
}

// share keeps a coordinator's levels equal to those that other processes share: it
// tells them what changes here and follows what changes there. Both are merges of
// records, which neither order nor repetition matters to.
type share struct {
	coordinator *rate.Coordinator
	key         func(provider string) string // of a provider's hash
	registers   Registers
	followers   *followers
	patience    time.Duration // how long the coordinator is held for the first look
	log         *slog.Logger

	ctx    context.Context // of all calls
	cancel context.CancelFunc
	done   sync.WaitGroup
	ready  chan struct{} // closed: restored, or given up

	work      sync.Mutex      // held while the registers are read or written, and guards what follows
	providers []string        // never changed, only replaced, as are the slices that go by them
	keys      []string        // of the providers' hashes
	seen      []version       // of the hashes
	bad       []int           // values that could not be read
	torn      []bool          // what is there may not be what was there
	untold    map[string]bool // providers whose followers are to be told

	mu       sync.Mutex
	next     *commit // what comes after the one that runs; nil when nobody waits
	running  bool
	fault    error // why the levels are not shared now; nil when they are
	restored bool  // the first look has succeeded
	gaveUp   bool  // it had not when the time was over
}

// version is a state of a hash.
type version struct {
	epoch  string
	number int64
}

// commit is one round of telling what has changed. Those who come while it runs wait
// for the next one together.
type commit struct {
	done chan struct{}
	of   []string // the providers, as they were then
	errs []error  // by provider
}

// err is what went wrong of some providers, of all when none is named.
func (c *commit) err(some []string) error {
	for i, err := range c.errs {
		if err != nil && (len(some) == 0 || slices.Contains(some, c.of[i])) {
			return err
		}
	}
	return nil
}

func newShare(c *rate.Coordinator, providers []string, key func(provider string) string, r Registers, patience time.Duration,
	log *slog.Logger, f *followers,
) *share {
	s := &share{
		coordinator: c, providers: providers, key: key, registers: r, patience: patience, log: log, followers: f,
		ready: make(chan struct{}), untold: make(map[string]bool), seen: make([]version, len(providers)), bad: make([]int, len(providers)),
		torn: make([]bool, len(providers)),
	}
	for _, p := range providers {
		s.keys = append(s.keys, key(p))
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	c.Journal()
	c.Hold()
	return s
}

// start begins to follow the shared levels.
func (s *share) start() { s.done.Go(s.follow) }

// close tells what is left to tell, as far as ctx allows, and ends.
func (s *share) close(ctx context.Context) error {
	s.coordinator.Settle()
	err := s.commit(ctx)
	s.cancel()
	ended := make(chan struct{})
	go func() {
		s.done.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done(): // a call that hangs ends by its own limit
	}
	return err
}

// follow looks at the shared levels until close.
func (s *share) follow() {
	giveUp := time.AfterFunc(s.patience, s.giveUp)
	defer giveUp.Stop()
	for wait := time.Duration(0); ; {
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-s.ctx.Done():
			timer.Stop()
			return
		}
		err := s.look(s.ctx)
		if s.ctx.Err() != nil {
			return
		}
		s.note(err)
		s.tell()
		if err == nil {
			wait = pollEvery
		} else {
			wait = min(max(2*wait, pollEvery), longestPoll)
		}
	}
}

// giveUp lets the coordinator go on with what it knows.
func (s *share) giveUp() {
	s.mu.Lock()
	over := s.restored || s.gaveUp
	s.gaveUp = !s.restored
	err := s.fault
	s.mu.Unlock()
	if over {
		return
	}
	s.log.Warn("rate levels not restored in time: providers go on as if none was under pressure, until they are",
		"waited", s.patience, "err", err)
	s.open()
}

// open ends the hold.
func (s *share) open() {
	s.coordinator.Release()
	close(s.ready)
}

// note keeps how an attempt went: one line when it stops working, one when it works
// again.
func (s *share) note(err error) {
	s.mu.Lock()
	before, first, waiting := s.fault, err == nil && !s.restored, !s.gaveUp
	s.fault = err
	s.restored = s.restored || err == nil
	s.mu.Unlock()
	switch {
	case first:
		s.log.Info("rate levels restored", "providers", len(s.names()))
		if waiting {
			s.open()
		}
	case err == nil && before != nil:
		s.log.Info("rate levels shared again")
	case err != nil && before == nil:
		s.log.Warn("rate levels not shared, will be tried until they are", "err", err)
	}
}

// wait returns when events may be applied: once the levels have been restored, or
// have not been in time.
func (s *share) wait(ctx context.Context) error {
	select {
	case <-s.ready:
		return nil
	default:
	}
	select {
	case <-s.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// status is why the levels are not those of the other processes; "" when they are.
func (s *share) status() (reason string, restoring bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.restored && !s.gaveUp && s.fault != nil:
		return fmt.Sprintf("rate levels are being restored: %v", s.fault), true
	case !s.restored && !s.gaveUp:
		return "rate levels are being restored", true
	case !s.restored && s.fault == nil:
		return "rate levels not restored: providers go on as if none was under pressure: no answer yet", false
	case !s.restored:
		return fmt.Sprintf("rate levels not restored: providers go on as if none was under pressure: %v", s.fault), false
	case s.fault != nil:
		return fmt.Sprintf("rate levels not shared with other processes: %v", s.fault), false
	}
	return "", false
}

// look takes in what others have shared. The first look asks for permissions too.
func (s *share) look(ctx context.Context) error {
	s.mu.Lock()
	first := !s.restored
	s.mu.Unlock()
	if first {
		s.work.Lock()
		keys := s.keys
		s.work.Unlock()
		if len(keys) > 0 {
			if err := s.registers.Check(ctx, keys); err != nil {
				return err
			}
		}
	}
	s.work.Lock()
	err := s.pull(ctx, first)
	s.work.Unlock()
	if s.coordinator.Changed() {
		err = firstOf(err, s.commit(ctx))
	}
	return err
}

// pull reads the hashes that have changed. What fails of one provider is no concern of
// the others.
func (s *share) pull(ctx context.Context, all bool) error {
	if len(s.providers) == 0 {
		return nil
	}
	epochs, numbers, err := s.registers.Versions(ctx, s.keys)
	if err != nil {
		for i := range s.torn {
			s.torn[i] = true
		}
		return err
	}
	for i := range s.providers {
		if now := (version{epochs[i], numbers[i]}); now == s.seen[i] && !s.torn[i] && !all {
			continue
		}
		fault := s.read(ctx, i)
		s.torn[i] = fault != nil
		if err = firstOf(err, fault); ctx.Err() != nil {
			break
		}
	}
	return err
}

// read takes in a provider's hash. One that may not be what it was (flushed, or a
// replica's that had not got everything) is compared as a whole, and lacks nothing
// afterwards that is known here.
func (s *share) read(ctx context.Context, i int) error {
	provider, seen := s.providers[i], s.seen[i]
	registers, epoch, number, err := s.registers.Read(ctx, s.keys[i])
	if err != nil {
		return err
	}
	records, bad := recordsOf(registers)
	if bad > 0 && bad != s.bad[i] {
		s.log.Warn("shared rate levels that cannot be read are left out", "provider", provider, "count", bad)
	}
	s.bad[i] = bad
	switch err := s.merge(provider, records); {
	case errors.Is(err, rate.ErrUnknownProvider):
		return nil // declared no more, and about to be left out
	case err != nil:
		return err
	}
	lost := seen.epoch != "" && (epoch != seen.epoch || number < seen.number)
	if s.torn[i] || lost {
		if err := s.restate(provider, registers); err != nil {
			return err
		}
	}
	s.seen[i] = version{epoch, number}
	return nil
}

// restate makes the next commit tell all that the registers do not hold.
func (s *share) restate(provider string, registers map[string]string) error {
	known, err := s.coordinator.Records(provider)
	if errors.Is(err, rate.ErrUnknownProvider) {
		return nil
	}
	if err != nil {
		return err
	}
	var lacking []rate.Record
	for _, r := range known {
		text := registers[r.Coordinator]
		if _, ok := recordOf(r.Coordinator, text); !ok || text < registerOf(r) {
			lacking = append(lacking, r)
		}
	}
	return s.coordinator.PutBack(provider, lacking)
}

// commit returns when all that has changed before the call is shared. The error is
// that of the providers named, of any when none is.
func (s *share) commit(ctx context.Context, providers ...string) error {
	s.mu.Lock()
	if s.next == nil {
		if !s.running && !s.coordinator.Changed() {
			s.mu.Unlock()
			return nil
		}
		s.next = &commit{done: make(chan struct{})}
	}
	c := s.next
	if !s.running {
		s.running = true
		s.done.Go(s.commitAll)
	}
	s.mu.Unlock()
	select {
	case <-c.done:
		return c.err(providers)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// commitAll runs commits as long as somebody waits for one.
func (s *share) commitAll() {
	for {
		s.mu.Lock()
		c := s.next
		s.next = nil
		s.running = c != nil
		s.mu.Unlock()
		if c == nil {
			return
		}
		s.work.Lock()
		c.of, c.errs = s.providers, s.push(s.ctx)
		s.work.Unlock()
		if err := c.err(nil); err != nil && s.ctx.Err() == nil {
			s.note(err)
		}
		close(c.done)
	}
}

// push shares what has changed, of each provider by itself, and returns the errors by
// provider. What fails is tried again by the next push.
func (s *share) push(ctx context.Context) []error {
	errs := make([]error, len(s.providers))
	for i := range s.providers {
		if errs[i] = s.pushOne(ctx, i); errs[i] != nil {
			s.torn[i] = true
		}
	}
	return errs
}

func (s *share) pushOne(ctx context.Context, i int) error {
	provider := s.providers[i]
	for {
		changes, err := s.coordinator.Changes(provider, shareBatch)
		if errors.Is(err, rate.ErrUnknownProvider) {
			return nil // declared no more, and about to be left out
		}
		if err != nil || len(changes) == 0 {
			return err
		}
		if err := s.raise(ctx, i, changes); err != nil {
			return fmt.Errorf("share levels of provider %q: %w", provider, firstOf(err, s.coordinator.PutBack(provider, changes)))
		}
		if len(changes) < shareBatch {
			return nil // what has changed since is the next push's, or this one might never end
		}
	}
}

// firstOf returns the first of two errors that is one.
func firstOf(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

func (s *share) raise(ctx context.Context, i int, changes []rate.Record) error {
	values, drop := make(map[string]string, len(changes)), make(map[string]string)
	for _, r := range changes {
		if r.Dropped {
			drop[r.Coordinator] = registerOf(r)
		} else {
			values[r.Coordinator] = registerOf(r)
		}
	}
	more, epoch, before, after, err := s.registers.Raise(ctx, s.keys[i], registerSize, values, drop)
	if err != nil {
		return err
	}
	switch {
	case s.seen[i] == version{epoch, before}, s.seen[i].epoch == "" && before == 0:
		s.seen[i] = version{epoch, after} // nobody else has changed it
	case s.seen[i].epoch == "":
		s.seen[i] = version{epoch, -1} // the hash is known now, what is in it is not
	}
	records, _ := recordsOf(more)
	return s.merge(s.providers[i], records)
}

// merge takes in what others have shared.
func (s *share) merge(provider string, records []rate.Record) error {
	changed, err := s.coordinator.Merge(provider, records)
	if changed {
		s.untold[provider] = true
	}
	return err
}

// tell tells the followers of what others have changed. What fails is told again
// after the next look.
func (s *share) tell() {
	for _, provider := range s.names() {
		s.work.Lock()
		due := s.untold[provider]
		delete(s.untold, provider)
		s.work.Unlock()
		if !due {
			continue
		}
		if err := s.followers.tell(provider); err != nil {
			s.log.Debug("change from another process not announced", "provider", provider, "err", err)
			s.work.Lock()
			s.untold[provider] = true
			s.work.Unlock()
		}
	}
}
