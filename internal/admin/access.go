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
	return s.admit(next, s.operatorToken(), s.local(), "beyond loopback this needs OPERATOR_TOKEN or PUBLISHER_TOKEN to be set")
}

// overrulers admits those who may overrule the coordinator: only those who carry the
// operator's token, which must be set. Whoever may publish, and whoever merely is on
// this machine, may not decide at which rate others call a provider.
func (s *Server) overrulers(next http.HandlerFunc) http.HandlerFunc {
	return s.admit(next, s.config.OperatorToken, false, "this needs OPERATOR_TOKEN to be set, and to be sent as a bearer token")
}

// publishers admits those who may use up what providers grant: whoever is on this
// machine when no token is set, and else whoever carries the publisher's. That
// anyone may post events does not make it anyone's to call.
func (s *Server) publishers(next http.HandlerFunc) http.HandlerFunc {
	return s.admit(next, s.config.Token, s.local(), "beyond loopback this needs PUBLISHER_TOKEN to be set")
}

// admit lets those through who carry the token. Where none is set everybody is let
// through when open, and nobody otherwise, for the reason given.
func (s *Server) admit(next http.HandlerFunc, token string, open bool, closed string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch {
		case token == "" && !open:
			s.fail(w, http.StatusForbidden, closed)
		case !authorized(r, token):
			s.unauthorized(w, token)
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
