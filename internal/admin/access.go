package admin

import (
	"cmp"
	"net"
	"net/http"
)

// operatorToken is what a change other than ingest requires.
func (s *Server) operatorToken() string { return cmp.Or(s.config.OperatorToken, s.config.Token) }

// local reports whether only this machine can reach the listener.
func (s *Server) local() bool {
	host, _, err := net.SplitHostPort(s.config.Listen)
	return err == nil && loopback(host)
}

// operators admits those who may change things or read payloads: whoever is on this
// machine when no token is set, and else whoever carries it. Beyond loopback there
// is no way in without a token.
func (s *Server) operators(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		token := s.operatorToken()
		switch {
		case token == "" && !s.local():
			s.fail(w, http.StatusForbidden, "beyond loopback this needs OPERATOR_TOKEN or PUBLISHER_TOKEN to be set")
		case !authorized(r, token):
			s.unauthorized(w)
		default:
			next(w, r)
		}
	}
}

// overrulers admits those who may overrule the coordinator: only those who carry the
// operator's token, which must be set. Whoever may publish, and whoever merely is on
// this machine, may not decide at which rate others call a provider.
func (s *Server) overrulers(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch {
		case s.config.OperatorToken == "":
			s.fail(w, http.StatusForbidden, "this needs OPERATOR_TOKEN to be set, and to be sent as a bearer token")
		case !authorized(r, s.config.OperatorToken):
			s.unauthorized(w)
		default:
			next(w, r)
		}
	}
}

// publishers admits those who may use up what providers grant: whoever is on this
// machine when no token is set, and else whoever carries the publisher's. That
// anyone may post events does not make it anyone's to call.
func (s *Server) publishers(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch {
		case s.config.Token == "" && !s.local():
			s.fail(w, http.StatusForbidden, "beyond loopback this needs PUBLISHER_TOKEN to be set")
		case !authorized(r, s.config.Token):
			s.unauthorized(w)
		default:
			next(w, r)
		}
	}
}

// thisMachine refuses requests to a loopback listener that were meant for another
// host: a page in a browser on this machine can have its own name resolve to
// 127.0.0.1, and would then be of the same origin.
func (s *Server) thisMachine(next http.Handler) http.Handler {
	if !s.local() {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		if !loopback(host) {
			s.fail(w, http.StatusMisdirectedRequest, "this listener serves 127.0.0.1 and localhost only")
			return
		}
		next.ServeHTTP(w, r)
	})
}
