package admin

import (
	"errors"
	"maps"
	"net/http"
	"time"
)

// reloadTime is how long a reload may take to be answered: it drains flows.
const reloadTime = 5 * time.Minute

// flows shows the flows, and which file they come from.
func (s *Server) flows(w http.ResponseWriter, _ *http.Request) {
	page := map[string]any{"flows": s.sources.Flows()}
	if s.sources.Config != nil {
		maps.Copy(page, s.sources.Config())
	}
	s.reply(w, http.StatusOK, page)
}

// reload loads the file again. The answer is the result, whatever it is.
func (s *Server) reload(w http.ResponseWriter, r *http.Request) {
	if s.sources.Reload == nil {
		s.fail(w, http.StatusNotFound, "there is no file to load again")
		return
	}
	// An error says that the connection has no deadline to move: the answer may be late.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(reloadTime))
	result, err := s.sources.Reload(r.Context())
	switch {
	case err == nil:
		s.reply(w, http.StatusOK, result)
	case errors.Is(err, ErrInvalid):
		s.reply(w, http.StatusUnprocessableEntity, result)
	case errors.Is(err, ErrUnavailable):
		s.fail(w, http.StatusServiceUnavailable, err.Error())
	default:
		s.reply(w, http.StatusInternalServerError, result)
	}
}
