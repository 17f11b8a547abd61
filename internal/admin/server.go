package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Timeouts and limits of the listener that are not configuration.
const (
	headerTimeout  = 5 * time.Second
	writeTimeout   = 30 * time.Second
	idleTimeout    = 60 * time.Second
	maxHeaderBytes = 16 << 10
)

// Config is how the listener behaves.
type Config struct {
	// Listen is host:port; port 0 picks a free one. Required.
	Listen string
	// Token, when not empty, is what POST /ingest, and acquiring from a provider and
	// reporting to it, must carry: as a bearer token, or as the password of HTTP basic
	// authentication.
	Token string
	// OperatorToken, when not empty, is what every other change must carry, in the
	// same ways. When it is empty Token is.
	OperatorToken string
	// AllowPublicIngest permits a listener beyond loopback without a token.
	AllowPublicIngest bool
	// MaxBody is the largest event accepted, in bytes. Zero is 1 MiB.
	MaxBody int64
	// ReadTimeout bounds reading one request, header and body. Zero is 10 s.
	ReadTimeout time.Duration
}

// ErrPublicIngest is returned for a listener that would accept events from other
// machines without a token.
var ErrPublicIngest = errors.New("refusing to accept events from other machines without a token")

// Validate reports what makes the configuration unusable. It wraps ErrPublicIngest
// where that is the reason.
func (c Config) Validate() error {
	host, port, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return fmt.Errorf("listen address %q: must be host:port", c.Listen)
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		return fmt.Errorf("listen address %q: the port must be a number from 0 to 65535", c.Listen)
	}
	if !loopback(host) && c.Token == "" && !c.AllowPublicIngest {
		return fmt.Errorf("listen address %q: %w: set PUBLISHER_TOKEN, listen on 127.0.0.1, or set "+
			"admin.allow_public_ingest: true", c.Listen, ErrPublicIngest)
	}
	return nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// Sources are what the pages show. All are required but Rates and Pacer.
type Sources struct {
	// Gatherer holds the metrics.
	Gatherer prometheus.Gatherer
	// Ready tells how the service is.
	Ready func() Readiness
	// Flows and Rates return values that encode as JSON. A nil Rates shows none.
	Flows func() any
	Rates func() any
	// Config returns what is told of the file beside the flows, by key; nil tells nothing.
	Config func() map[string]any
	// Reload loads the file again and returns what came of it, a value that encodes as
	// JSON. Its error is ErrInvalid, wrapped, where the file cannot be used and nothing has
	// changed, ErrUnavailable where the process is ending, and else that of a reload which
	// failed. Nil where there is no file to load.
	Reload func(ctx context.Context) (result any, err error)
	// DeadLetters returns the newest n dead letters of each flow, newest first; of
	// one flow only, when its name is not empty. It returns ErrNotFound, wrapped, for
	// a flow that is not there, as the next two do also for a dead letter.
	DeadLetters func(ctx context.Context, flow string, n int) ([]FlowDeadLetters, error)
	// RemoveDeadLetter removes one dead letter of a flow.
	RemoveDeadLetter func(ctx context.Context, flow, id string) error
	// ReplayDeadLetter puts a dead letter back on its flow's stream, removes it unless
	// keep says otherwise, and returns the id of the new entry.
	ReplayDeadLetter func(ctx context.Context, flow, id string, keep bool) (string, error)
	// ForgetCoordinator releases the level a coordinator holds and reports whether it
	// held one; an error says that there is no such provider. A nil one has none.
	ForgetCoordinator func(provider, coordinator string) (bool, error)
	// Pacer is the rate coordinator for other processes; nil where there is none.
	Pacer Pacer
	// Ingest puts data on the stream of a topic and returns its id. It returns
	// ErrUnknownStream, ErrTooLarge or ErrUnavailable, wrapped, where those are the
	// reason.
	Ingest func(ctx context.Context, e Entry) (id string, err error)
}

// Server is the listener.
type Server struct {
	config  Config
	sources Sources
	log     *slog.Logger
	http    *http.Server
	ln      net.Listener

	waiting  atomic.Int64    // acquires that wait
	stopping context.Context // ends them
	stop     context.CancelFunc
}

// New binds the listener; Serve serves it. An error says why the configuration or
// the address cannot be used.
func New(config Config, sources Sources, log *slog.Logger) (*Server, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	if config.MaxBody == 0 {
		config.MaxBody = 1 << 20
	}
	if config.ReadTimeout == 0 {
		config.ReadTimeout = 10 * time.Second
	}
	ln, err := net.Listen("tcp", config.Listen)
	if err != nil {
		return nil, fmt.Errorf("admin listener: %w: name another address with admin.listen, or with run --listen", err)
	}
	s := &Server{config: config, sources: sources, log: log, ln: ln}
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.http = &http.Server{
		Handler:           s.routes(),
		ReadHeaderTimeout: min(headerTimeout, config.ReadTimeout),
		ReadTimeout:       config.ReadTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return s, nil
}

// Addr is the address bound.
func (s *Server) Addr() string { return s.ln.Addr().String() }

// Serve serves until Close or Shutdown; it returns nil then.
func (s *Server) Serve() error {
	if err := s.http.Serve(s.ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("admin listener: %w", err)
	}
	return nil
}

// Shutdown stops accepting and waits for the requests in progress until ctx ends;
// then it cuts them off. Connections that never sent a request count as in progress
// for a while, so that is no error. Acquires that wait are ended at once.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop()
	err := s.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return s.http.Close()
	}
	return err
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.index)
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.sources.Gatherer, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.HandleFunc("GET /flows", s.flows)
	mux.HandleFunc("POST /reload", s.operators(s.reload))
	mux.HandleFunc("GET /rates", s.rates)
	mux.HandleFunc("GET /dlq", s.operators(s.deadLetters))
	mux.HandleFunc("DELETE /dlq/{flow}/{id}", s.operators(s.removeDeadLetter))
	mux.HandleFunc("POST /dlq/{flow}/{id}/replay", s.operators(s.replayDeadLetter))
	mux.HandleFunc("DELETE /rates/{provider}/coordinators/{coordinator}", s.overrulers(s.forgetCoordinator))
	mux.HandleFunc("GET /rates/{provider}", s.pacing(s.provider))
	mux.HandleFunc("POST /rates/{provider}/acquire", s.publishers(s.pacing(s.acquire)))
	mux.HandleFunc("POST /rates/{provider}/report", s.publishers(s.pacing(s.report)))
	mux.HandleFunc("POST /rates/{provider}/cooldown", s.publishers(s.pacing(s.cooldown)))
	mux.HandleFunc("DELETE /rates/{provider}/cooldowns/{scope}", s.overrulers(s.pacing(s.endCooldown)))
	mux.HandleFunc("POST /rates/{provider}/override", s.overrulers(s.pacing(s.override)))
	mux.HandleFunc("DELETE /rates/{provider}/override", s.overrulers(s.pacing(s.endOverride)))
	mux.HandleFunc("POST /ingest/{stream}", s.ingest)
	// A page in a browser on this machine must not be able to post events here.
	return s.thisMachine(http.NewCrossOriginProtection().Handler(mux))
}

func (s *Server) index(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = fmt.Fprint(w, "pulseflow\n\nGET  /metrics\nGET  /healthz\nGET  /readyz\nGET  /flows\nGET  /rates\n"+
		"GET  /dlq?flow=NAME&limit=N&data=false\nDELETE /dlq/{flow}/{id}\nPOST /dlq/{flow}/{id}/replay?keep=true\n"+
		"GET  /rates/{provider}\nPOST /rates/{provider}/acquire\nPOST /rates/{provider}/report\n"+
		"POST /rates/{provider}/cooldown\nDELETE /rates/{provider}/cooldowns/{scope}\n"+
		"POST /rates/{provider}/override\nDELETE /rates/{provider}/override\n"+
		"DELETE /rates/{provider}/coordinators/{id}\nPOST /ingest/{stream}\nPOST /reload\n")
}

// reply writes v as JSON. The client may be gone: there is no one to tell then.
func (s *Server) reply(w http.ResponseWriter, status int, v any) {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		s.log.Error("admin page not encoded", "err", err)
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
}

func (s *Server) fail(w http.ResponseWriter, status int, message string) {
	s.reply(w, status, map[string]string{"error": message})
}
