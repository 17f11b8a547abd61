package admin

import (
	"cmp"
	"net/http"
	"strconv"
)

// Limits of one page of dead letters, for each flow.
const (
	defaultDeadLetters = 20
	maxDeadLetters     = 1000
)

// FlowDeadLetters are the newest dead letters of one flow, newest first.
type FlowDeadLetters struct {
	Flow   string `json:"flow"`
	Stream string `json:"stream"`
	// Overflow is how many a bounded buffer has dropped; zero where a stream holds
	// them.
	Overflow int64 `json:"overflow"`
	// Error says why they could not be read; the other flows are shown all the same.
	Error       string       `json:"error,omitempty"`
	DeadLetters []DeadLetter `json:"dead_letters"`
}

// DeadLetter is one event that could not be handled.
type DeadLetter struct {
	ID         string `json:"id"`
	OriginalID string `json:"original_id"`
	Reason     string `json:"reason"`
	ErrorKind  string `json:"error_kind"`
	Stage      string `json:"stage"`
	Attempts   int    `json:"attempts"`
	Replays    int    `json:"replays,omitempty"`
	FailedAt   string `json:"failed_at"`
	// Data is the entry's data byte for byte where it is UTF-8, DataBase64 where it
	// is not. Fields is the whole entry where it had no data.
	Data       string            `json:"data,omitempty"`
	DataBase64 []byte            `json:"data_base64,omitempty"`
	Fields     map[string]string `json:"fields,omitempty"`
}

// deadLetters shows payloads, so beyond loopback it asks for the token too.
func (s *Server) deadLetters(w http.ResponseWriter, r *http.Request) {
	if !s.local() && !authorized(r, s.config.Token) && !authorized(r, s.operatorToken()) {
		s.unauthorized(w)
		return
	}
	n := defaultDeadLetters
	if text := r.URL.Query().Get("limit"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil || n < 1 || n > maxDeadLetters {
			s.fail(w, http.StatusBadRequest, "limit must be a number from 1 to "+strconv.Itoa(maxDeadLetters))
			return
		}
	}
	list, err := s.sources.DeadLetters(r.Context(), r.URL.Query().Get("flow"), n)
	if err != nil {
		s.fail(w, http.StatusNotFound, err.Error())
		return
	}
	s.reply(w, http.StatusOK, map[string]any{"flows": list})
}

// operatorToken is what a change other than ingest requires.
func (s *Server) operatorToken() string { return cmp.Or(s.config.OperatorToken, s.config.Token) }

func (s *Server) removeDeadLetter(w http.ResponseWriter, r *http.Request) {
	if !authorized(r, s.operatorToken()) {
		s.unauthorized(w)
		return
	}
	if err := s.sources.RemoveDeadLetter(r.Context(), r.PathValue("flow"), r.PathValue("id")); err != nil {
		s.fail(w, http.StatusNotFound, err.Error())
		return
	}
	s.reply(w, http.StatusOK, map[string]string{"removed": r.PathValue("id")})
}
