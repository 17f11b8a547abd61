package rate

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// GlobalScope is the scope of a cooldown that stops a provider.
const GlobalScope = "global"

// maxScopes bounds the cooldowns that a provider keeps beside the global one.
const maxScopes = 100

// Cooldown is one cooldown of a provider.
type Cooldown struct {
	// Scope is what cools down. GlobalScope refuses calls; all others are for
	// the caller to heed.
	Scope string
	// Remaining is the time until it ends, above 0.
	Remaining time.Duration
}

// cooldowns are those of one provider, by their end. Times are those of a
// bucket; they are not safe for concurrent use.
type cooldowns struct {
	global time.Duration
	scopes map[string]time.Duration // nil until first needed
}

// begin starts a cooldown, or moves its end back; it never moves it forward.
func (c *cooldowns) begin(scope string, now, d time.Duration) error {
	until := later(now, d)
	if scope == GlobalScope {
		c.global = max(c.global, until)
		return nil
	}
	name := nameOf(scope)
	if _, known := c.scopes[name]; !known {
		for s, end := range c.scopes {
			if end <= now {
				delete(c.scopes, s)
			}
		}
		if len(c.scopes) >= maxScopes {
			return fmt.Errorf("%w: there are %d scopes already", ErrInvalidCooldown, maxScopes)
		}
		if c.scopes == nil {
			c.scopes = make(map[string]time.Duration)
		}
		name = strings.Clone(name)
	}
	c.scopes[name] = max(c.scopes[name], until)
	return nil
}

// end stops a cooldown and reports whether there was one.
func (c *cooldowns) end(scope string, now time.Duration) bool {
	if scope == GlobalScope {
		cooling := c.global > now
		c.global = min(c.global, now)
		return cooling
	}
	name := nameOf(scope)
	until, known := c.scopes[name]
	delete(c.scopes, name)
	return known && until > now
}

// refuses returns how long calls are refused from now on; 0 lets them through.
func (c *cooldowns) refuses(now time.Duration) time.Duration { return max(0, c.global-now) }

// list returns those that have not ended, the global one first and the others
// by scope; nil when there is none.
func (c *cooldowns) list(now time.Duration) []Cooldown {
	var list []Cooldown
	if c.global > now {
		list = append(list, Cooldown{GlobalScope, c.global - now})
	}
	scoped := len(list)
	for s, end := range c.scopes {
		if end > now {
			list = append(list, Cooldown{s, end - now})
		}
	}
	slices.SortFunc(list[scoped:], func(a, b Cooldown) int { return cmp.Compare(a.Scope, b.Scope) })
	return list
}
