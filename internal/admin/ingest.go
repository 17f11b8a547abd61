package admin

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// Entry is an event posted to a stream.
type Entry struct {
	// Topic is the stream, without namespace; Data the body, a JSON object.
	Topic string
	Data  []byte
	// OriginalID is the identity the event keeps for dedupe, from the header of the
	// same name; "" for a new event. Replays is how often it has been put back.
	OriginalID string
	Replays    string
}

// Headers that a replayed dead letter is posted with.
const (
	HeaderOriginalID = "Pulseflow-Original-Id"
	HeaderReplays    = "Pulseflow-Replays"
)

// Reasons for which an entry is not taken.
var (
	// ErrUnknownStream: no flow reads the stream.
	ErrUnknownStream = errors.New("no flow reads this stream")
	// ErrUnavailable: the bus is down or full; the same entry may be taken later.
	ErrUnavailable = errors.New("the bus cannot take the event now")
	// ErrTooLarge: the event, or the envelope made for it, is over the limit.
	ErrTooLarge = errors.New("the event is larger than max_event_size")
	// ErrNotFound: there is no such flow or dead letter.
	ErrNotFound = errors.New("not found")
)

// retryAfter is what a client is asked to wait when the bus is full or down, in
// seconds.
const retryAfter = "1"

func (s *Server) ingest(w http.ResponseWriter, r *http.Request) {
	if !authorized(r, s.config.Token) {
		s.unauthorized(w, s.config.Token)
		return
	}
	if !plain(r.Header.Get(HeaderOriginalID)) {
		s.fail(w, http.StatusBadRequest, HeaderOriginalID+" must be an id of at most 128 plain characters")
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, s.config.MaxBody))
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			s.fail(w, http.StatusRequestEntityTooLarge, ErrTooLarge.Error())
			return
		}
		s.fail(w, http.StatusBadRequest, "the body could not be read")
		return
	}
	if !isObject(body) {
		s.fail(w, http.StatusBadRequest, "the body must be a JSON object")
		return
	}
	id, err := s.sources.Ingest(r.Context(), Entry{
		Topic: r.PathValue("stream"), Data: body,
		OriginalID: r.Header.Get(HeaderOriginalID), Replays: r.Header.Get(HeaderReplays),
	})
	switch {
	case errors.Is(err, ErrUnknownStream):
		s.fail(w, http.StatusNotFound, err.Error())
	case errors.Is(err, ErrTooLarge):
		s.fail(w, http.StatusRequestEntityTooLarge, ErrTooLarge.Error())
	case errors.Is(err, ErrUnavailable):
		w.Header().Set("Retry-After", retryAfter)
		s.fail(w, http.StatusServiceUnavailable, err.Error())
	case err != nil:
		s.log.Error("event not ingested", "stream", r.PathValue("stream"), "err", err)
		s.fail(w, http.StatusInternalServerError, "the event could not be put on the bus")
	default:
		s.reply(w, http.StatusAccepted, map[string]string{"id": id})
	}
}

func isObject(body []byte) bool {
	return bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("{")) && json.Valid(body)
}

// plain reports whether an id is one that tables and logs can show.
func plain(id string) bool {
	const longest = 128
	return len(id) <= longest && !strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' })
}

// unauthorized asks for the token, and says whose it is.
func (s *Server) unauthorized(w http.ResponseWriter, token string) {
	w.Header().Add("WWW-Authenticate", `Bearer realm="pulseflow"`)
	w.Header().Add("WWW-Authenticate", `Basic realm="pulseflow"`)
	whose := "publisher"
	if token == s.config.OperatorToken {
		whose = "operator"
	}
	s.fail(w, http.StatusUnauthorized, fmt.Sprintf(
		"this needs the %s's token (admin.%s_token), as a bearer token or as the password of basic authentication", whose, whose))
}

// authorized reports whether the request carries the token; no token is carried by
// all. It compares digests, so that neither the time taken nor the length tells
// anything of it.
func authorized(r *http.Request, token string) bool {
	if token == "" {
		return true
	}
	given, ok := "", false
	if _, password, basic := r.BasicAuth(); basic {
		given, ok = password, true
	} else if scheme, bearer, found := strings.Cut(r.Header.Get("Authorization"), " "); found {
		given, ok = strings.TrimSpace(bearer), strings.EqualFold(scheme, "Bearer")
	}
	want, got := sha256.Sum256([]byte(token)), sha256.Sum256([]byte(given))
	return subtle.ConstantTimeCompare(want[:], got[:]) == 1 && ok
}
