package app

import (
	"io"
	"sync"
)

// stdout remembers the first write that failed, so that what is missing of the output of
// a command is never taken for all of it.
type stdout struct {
	w io.Writer

	mu    sync.Mutex
	fault error
}

func (s *stdout) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.fault == nil {
			s.fault = err
		}
	}
	return n, err
}

// failed is why the output is not whole; nil when it is.
func (s *stdout) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fault
}
