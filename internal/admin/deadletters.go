package admin

import (
	"errors"
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
	// DataOmitted says that the three are left out of this reply.
	DataOmitted bool `json:"data_omitted,omitempty"`
}

// maxReply bounds the payloads of one reply, in bytes. Letters beyond it are listed
// without theirs.
const maxReply = 16 << 20

func (s *Server) deadLetters(w http.ResponseWriter, r *http.Request) {
	n := defaultDeadLetters
	query := r.URL.Query()
	if text := query.Get("limit"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil || n < 1 || n > maxDeadLetters {
			s.fail(w, http.StatusBadRequest, "limit must be a number from 1 to "+strconv.Itoa(maxDeadLetters))
			return
		}
	}
	list, err := s.sources.DeadLetters(r.Context(), query.Get("flow"), n)
	if err != nil {
		s.deadLetterError(w, err)
		return
	}
	left := maxReply
	if query.Get("data") == "false" {
		left = 0
	}
	for _, f := range list {
		for i := range f.DeadLetters {
			left = f.DeadLetters[i].fit(left)
		}
	}
	s.reply(w, http.StatusOK, map[string]any{"flows": list})
}

// fit leaves the payload out when there is no room for it, and returns the room that
// is left.
func (d *DeadLetter) fit(room int) int {
	size := len(d.Data) + len(d.DataBase64)
	for k, v := range d.Fields {
		size += len(k) + len(v)
	}
	if size <= room {
		return room - size
	}
	d.Data, d.DataBase64, d.Fields, d.DataOmitted = "", nil, nil, true
	return room
}

func (s *Server) removeDeadLetter(w http.ResponseWriter, r *http.Request) {
	if err := s.sources.RemoveDeadLetter(r.Context(), r.PathValue("flow"), r.PathValue("id")); err != nil {
		s.deadLetterError(w, err)
		return
	}
	s.reply(w, http.StatusOK, map[string]string{"removed": r.PathValue("id")})
}

func (s *Server) replayDeadLetter(w http.ResponseWriter, r *http.Request) {
	id, err := s.sources.ReplayDeadLetter(r.Context(), r.PathValue("flow"), r.PathValue("id"),
		r.URL.Query().Get("keep") == "true")
	if err != nil {
		s.deadLetterError(w, err)
		return
	}
	s.reply(w, http.StatusOK, map[string]string{"id": id})
}

func (s *Server) deadLetterError(w http.ResponseWriter, err error) {
	status := http.StatusServiceUnavailable
	if errors.Is(err, ErrNotFound) {
		status = http.StatusNotFound
	}
	s.fail(w, status, err.Error())
}
