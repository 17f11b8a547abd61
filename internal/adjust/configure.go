package adjust

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/stages"
)

// configureTime bounds how long Configure waits for the levels of new providers.
const configureTime = time.Second

// Configure makes the providers those of a new file. One that was there before keeps
// its levels, tokens, cooldowns and override; where its policy is another than the
// file before gave, the held levels count by the new one from now on. Levels that are
// shared are taken in for new providers before it returns, if they can be had. With an
// error nothing has changed. It is not to be called twice at once.
func (a *Applier) Configure(ctx context.Context, providers []flows.Provider, policies map[string]stages.Policy) error {
	if err := a.coordinator.Configure(providerConfigs(providers, policies, a.policies)); err != nil {
		return err
	}
	a.policies = maps.Clone(policies)
	switch {
	case a.share != nil:
		if a.share.configure(names(providers)) {
			ctx, cancel := context.WithTimeout(ctx, configureTime)
			defer cancel()
			a.share.note(a.share.look(ctx))
		}
	case a.keep != nil:
		a.keep.configure(names(providers))
	}
	return nil
}

// Announce makes those who follow the providers' states look at them, after
// Configure may have changed any. The error is that of those who could not.
func (a *Applier) Announce() error {
	var errs []error
	for _, s := range a.coordinator.States() {
		errs = append(errs, a.followers.tell(s.Provider))
	}
	return errors.Join(errs...)
}

// Follow implements stages.RateFollowing.
func (a *Applier) Follow(f func(provider string) error) (end func()) { return a.followers.add(f) }

// followers are told of a provider's state when it was changed otherwise than by an
// event of theirs.
type followers struct {
	mu   sync.Mutex
	list []*func(provider string) error
}

func (f *followers) add(follow func(provider string) error) (end func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = append(f.list, &follow)
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.list = slices.DeleteFunc(f.list, func(other *func(string) error) bool { return other == &follow })
	}
}

func (f *followers) tell(provider string) error {
	f.mu.Lock()
	list := slices.Clone(f.list)
	f.mu.Unlock()
	var errs []error
	for _, follow := range list {
		errs = append(errs, (*follow)(provider))
	}
	return errors.Join(errs...)
}

// configure makes the shared levels those of other providers, and reports whether
// there are new ones.
func (s *share) configure(providers []string) (added bool) {
	s.work.Lock()
	defer s.work.Unlock()
	seen, bad, torn := make([]version, len(providers)), make([]int, len(providers)), make([]bool, len(providers))
	keys := make([]string, len(providers))
	for i, p := range providers {
		keys[i] = s.key(p)
		if before := slices.Index(s.providers, p); before >= 0 {
			seen[i], bad[i], torn[i] = s.seen[before], s.bad[before], s.torn[before]
		} else {
			added = true
		}
	}
	s.providers, s.keys, s.seen, s.bad, s.torn = providers, keys, seen, bad, torn
	return added
}

// names are the providers whose levels are shared now.
func (s *share) names() []string {
	s.work.Lock()
	defer s.work.Unlock()
	return s.providers
}

// configure makes the kept levels those of other providers.
func (k *keep) configure(providers []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.providers = providers
}

func (k *keep) names() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.providers
}
