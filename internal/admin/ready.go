package admin

import "net/http"

// The states of the service, as /readyz names them.
const (
	Ready    = "ready"
	Starting = "starting"
	Degraded = "degraded"
	Disabled = "disabled"
	Stopping = "stopping"
)

// Readiness is how the service is.
type Readiness struct {
	// Status is one of the states above.
	Status string `json:"status"`
	// Reasons say why it is not ready, one a cause.
	Reasons []string `json:"reasons,omitempty"`
	// Warnings say what an operator should know although it is ready.
	Warnings []string `json:"warnings,omitempty"`
	// Buses tell how each bus is, where there are several.
	Buses []BusState `json:"buses,omitempty"`
}

// BusState is how a bus is.
type BusState struct {
	Name    string `json:"name"`
	Backend string `json:"backend"`
	Up      bool   `json:"up"`
	// Reason says why it cannot be used.
	Reason string `json:"reason,omitempty"`
}

func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	s.reply(w, http.StatusOK, map[string]string{"status": "ok"})
}

// readyz answers 200 when the service does what its configuration asks for, which
// includes doing nothing, and 503 otherwise.
func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	r := s.sources.Ready()
	status := http.StatusServiceUnavailable
	if r.Status == Ready || r.Status == Disabled {
		status = http.StatusOK
	}
	s.reply(w, status, r)
}
