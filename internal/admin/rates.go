package admin

import "net/http"

func (s *Server) rates(w http.ResponseWriter, _ *http.Request) {
	var rates any = []struct{}{}
	if s.sources.Rates != nil {
		rates = s.sources.Rates()
	}
	s.reply(w, http.StatusOK, map[string]any{"rates": rates})
}

// forgetCoordinator releases a level whose ok will never come: that of a coordinator
// which was retired, or whose last event was lost.
func (s *Server) forgetCoordinator(w http.ResponseWriter, r *http.Request) {
	if s.sources.ForgetCoordinator == nil {
		s.fail(w, http.StatusNotFound, "the file declares no provider")
		return
	}
	held, err := s.sources.ForgetCoordinator(r.PathValue("provider"), r.PathValue("coordinator"))
	switch {
	case err != nil:
		s.fail(w, http.StatusNotFound, err.Error())
	case !held:
		s.fail(w, http.StatusNotFound, "the coordinator holds no level")
	default:
		s.log.Info("coordinator forgotten", "provider", r.PathValue("provider"))
		s.reply(w, http.StatusOK, map[string]string{"forgotten": r.PathValue("coordinator")})
	}
}
