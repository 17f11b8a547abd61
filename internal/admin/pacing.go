package admin

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"
)

// Limits of pacing another process.
const (
	// MaxWait is the longest that an acquire may wait.
	MaxWait = time.Minute
	// maxWaiting is how many acquires may wait at once: each holds a connection.
	maxWaiting = 1000
	// maxCooldown is the longest cooldown that a caller may ask for.
	maxCooldown = 24 * time.Hour
	// pausedRetry is what a client is asked to wait for a paused provider, of which
	// nothing tells when it goes on.
	pausedRetry = 5 * time.Second
)

// Pacer is the rate coordinator as the listener offers it to other processes. Its
// errors wrap ErrNotFound for an unknown provider and ErrInvalid for what can never
// be done, in words for the caller.
type Pacer interface {
	// Provider is the state of one provider, a value that encodes as JSON.
	Provider(provider string) (any, error)
	// Acquire takes n tokens, waiting up to wait for them. A refusal is no error; an
	// error of ctx says that ctx ended first, and then none are taken.
	Acquire(ctx context.Context, provider string, n int, wait time.Duration) (Pace, error)
	// Report tells the provider's circuit breaker how a call went.
	Report(provider string, success bool) error
	// Cooldown begins a cooldown; 0 is as long as the provider declares. EndCooldown
	// ends one and reports whether it ran.
	Cooldown(provider, scope string, d time.Duration) error
	EndCooldown(provider, scope string) (bool, error)
	// Override puts a scale in place of the aggregated one until ttl ends. EndOverride
	// ends it and reports whether there was one.
	Override(provider string, scale float64, ttl time.Duration, reason string) error
	EndOverride(provider string) (bool, error)
}

// ErrInvalid says what of a request can never be done.
var ErrInvalid = errors.New("invalid request")

// Why an acquire is refused.
const (
	// RefusedRate: the tokens are not there, and will be.
	RefusedRate = "rate"
	// RefusedPaused: the rate is 0.
	RefusedPaused = "paused"
	// RefusedBreaker and RefusedCooldown: no call is let through.
	RefusedBreaker  = "breaker_open"
	RefusedCooldown = "cooldown"
)

// Pace is the answer to an acquire: what happened, and the provider's state then.
type Pace struct {
	Provider string `json:"provider"`
	// N is how many tokens were asked for.
	N             int     `json:"n"`
	WaitedSeconds float64 `json:"waited_seconds"`
	// Tokens are those left, EffectiveRate is in tokens a second.
	Tokens        float64 `json:"tokens"`
	EffectiveRate float64 `json:"effective_rate"`
	Scale         float64 `json:"scale"`
	Level         string  `json:"level"`
	// Refused is why there are none; "" when they were granted. RetryAfter is when to
	// ask again, and has no meaning for RefusedPaused.
	Refused    string        `json:"-"`
	RetryAfter time.Duration `json:"-"`
}

// refusal is a Pace without tokens.
type refusal struct {
	Error             string  `json:"error"`
	Reason            string  `json:"reason"`
	RetryAfterSeconds float64 `json:"retry_after_seconds"`
	Pace
}

// pacing admits to a handler only where there are providers.
func (s *Server) pacing(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if s.sources.Pacer == nil {
			s.fail(w, http.StatusNotFound, "the file declares no provider")
			return
		}
		next(w, r)
	}
}

func (s *Server) provider(w http.ResponseWriter, r *http.Request) {
	state, err := s.sources.Pacer.Provider(r.PathValue("provider"))
	if err != nil {
		s.pacerError(w, err)
		return
	}
	s.reply(w, http.StatusOK, state)
}

func (s *Server) acquire(w http.ResponseWriter, r *http.Request) {
	request := struct {
		N    int    `json:"n"`
		Wait string `json:"wait"`
	}{N: 1}
	if !s.read(w, r, &request, "n, wait") {
		return
	}
	wait, err := duration("wait", request.Wait, MaxWait)
	if err != nil {
		s.fail(w, http.StatusBadRequest, err.Error())
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	if wait > 0 {
		if s.waiting.Add(1) > maxWaiting {
			s.waiting.Add(-1)
			s.retryLater(w, fmt.Sprintf("%d calls wait already", maxWaiting))
			return
		}
		defer s.waiting.Add(-1)
		defer context.AfterFunc(s.stopping, cancel)()
		// The listener's own timeout is for answers that come at once.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(wait + writeTimeout))
	}
	pace, err := s.sources.Pacer.Acquire(ctx, r.PathValue("provider"), request.N, wait)
	switch {
	case err != nil && r.Context().Err() != nil:
		// Mostly no one is there to tell; but who has closed only its own side would
		// take an answer without words for tokens.
		s.retryLater(w, "the client ended the request")
	case err != nil && s.stopping.Err() != nil:
		s.retryLater(w, "the process is shutting down")
	case err != nil:
		s.pacerError(w, err)
	case pace.Refused != "":
		s.refuse(w, pace)
	default:
		s.reply(w, http.StatusOK, pace)
	}
}

// refuse answers 429 whatever the reason: to a client that paces itself they are one
// thing, do not call now, and the header says until when.
func (s *Server) refuse(w http.ResponseWriter, p Pace) {
	text := map[string]string{
		RefusedRate:     "the tokens are not there yet",
		RefusedPaused:   "the provider is paused",
		RefusedBreaker:  "the provider's circuit breaker is open",
		RefusedCooldown: "the provider is in cooldown",
	}[p.Refused]
	if p.Refused == RefusedPaused {
		p.RetryAfter = pausedRetry
	}
	seconds := p.RetryAfter.Seconds()
	w.Header().Set("Retry-After", strconv.FormatInt(max(1, int64(math.Ceil(seconds))), 10))
	s.reply(w, http.StatusTooManyRequests, refusal{text, p.Refused, seconds, p})
}

func (s *Server) retryLater(w http.ResponseWriter, message string) {
	w.Header().Set("Retry-After", retryAfter)
	s.fail(w, http.StatusServiceUnavailable, message)
}

func (s *Server) report(w http.ResponseWriter, r *http.Request) {
	var request struct {
		Outcome string `json:"outcome"`
	}
	if !s.read(w, r, &request, "outcome") {
		return
	}
	if request.Outcome != "success" && request.Outcome != "failure" {
		s.fail(w, http.StatusBadRequest, "outcome must be success or failure")
		return
	}
	s.done(w, r, s.sources.Pacer.Report(r.PathValue("provider"), request.Outcome == "success"))
}

func (s *Server) cooldown(w http.ResponseWriter, r *http.Request) {
	request := struct {
		Scope string `json:"scope"`
		For   string `json:"for"`
	}{Scope: "global"}
	if !s.read(w, r, &request, "scope, for") {
		return
	}
	d, err := duration("for", request.For, maxCooldown)
	if err == nil && request.For != "" && d == 0 {
		err = errors.New("for must be above 0; leave it out for what the provider declares")
	}
	if err != nil {
		s.fail(w, http.StatusBadRequest, err.Error())
		return
	}
	provider := r.PathValue("provider")
	err = s.sources.Pacer.Cooldown(provider, request.Scope, d)
	if err == nil {
		s.log.Info("cooldown triggered", "provider", provider, "scope", request.Scope, "for", request.For, "remote", r.RemoteAddr)
	}
	s.done(w, r, err)
}

func (s *Server) endCooldown(w http.ResponseWriter, r *http.Request) {
	provider, scope := r.PathValue("provider"), r.PathValue("scope")
	ended, err := s.sources.Pacer.EndCooldown(provider, scope)
	if err == nil && !ended {
		s.fail(w, http.StatusNotFound, "no such cooldown runs")
		return
	}
	if err == nil {
		s.log.Info("cooldown ended", "provider", provider, "scope", scope, "remote", r.RemoteAddr)
	}
	s.done(w, r, err)
}

func (s *Server) override(w http.ResponseWriter, r *http.Request) {
	var request struct {
		Scale  *float64 `json:"scale"`
		TTL    string   `json:"ttl"`
		Reason string   `json:"reason"`
	}
	if !s.read(w, r, &request, "scale, ttl, reason") {
		return
	}
	switch {
	case request.Scale == nil:
		s.fail(w, http.StatusBadRequest, "scale is required: a number in [0, 1]")
		return
	case request.TTL == "":
		s.fail(w, http.StatusBadRequest, `ttl is required: how long it lasts, such as "10m"`)
		return
	}
	ttl, err := duration("ttl", request.TTL, math.MaxInt64)
	if err != nil {
		s.fail(w, http.StatusBadRequest, err.Error())
		return
	}
	provider := r.PathValue("provider")
	err = s.sources.Pacer.Override(provider, *request.Scale, ttl, request.Reason)
	if err == nil {
		s.log.Warn("rate override set", "provider", provider, "scale", *request.Scale, "ttl", ttl,
			"reason", request.Reason, "remote", r.RemoteAddr)
	}
	s.done(w, r, err)
}

func (s *Server) endOverride(w http.ResponseWriter, r *http.Request) {
	provider := r.PathValue("provider")
	ended, err := s.sources.Pacer.EndOverride(provider)
	if err == nil && !ended {
		s.fail(w, http.StatusNotFound, "no override is in force")
		return
	}
	if err == nil {
		s.log.Warn("rate override ended", "provider", provider, "remote", r.RemoteAddr)
	}
	s.done(w, r, err)
}

// done answers a change with the provider's state after it, or with its error.
func (s *Server) done(w http.ResponseWriter, r *http.Request, err error) {
	if err != nil {
		s.pacerError(w, err)
		return
	}
	s.provider(w, r)
}

func (s *Server) pacerError(w http.ResponseWriter, err error) {
	switch {
	case errors.Is(err, ErrNotFound):
		s.fail(w, http.StatusNotFound, err.Error())
	case errors.Is(err, ErrInvalid):
		s.fail(w, http.StatusBadRequest, err.Error())
	default:
		s.log.Error("rate coordinator failed", "err", err)
		s.fail(w, http.StatusInternalServerError, "internal error")
	}
}
