package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// desk is a listener under test and what its sources answer.
type desk struct {
	t       *testing.T
	base    string
	ready   Readiness
	entries []Entry
	fail    error // of Ingest
	removed []string
	missing bool // of dead letters
	pacer   *scripted
	reload  error
	log     bytes.Buffer
	server  *Server
}

func open(t *testing.T, config Config) *desk {
	t.Helper()
	d := &desk{t: t, ready: Readiness{Status: Ready}, pacer: newScripted()}
	reg := prometheus.NewRegistry()
	reg.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "answer", Help: "The answer."}))
	if config.Listen == "" {
		config.Listen = "127.0.0.1:0"
	}
	s, err := New(config, Sources{
		Gatherer: reg,
		Ready:    func() Readiness { return d.ready },
		Flows:    func() any { return []string{"feedback"} },
		Rates:    func() any { return []string{"ibkr"} },
		Config:   func() map[string]any { return map[string]any{"generation": 3} },
		Reload:   func(context.Context) (any, error) { return map[string]string{"result": "told"}, d.reload },
		DeadLetters: func(_ context.Context, flow string, n int) ([]FlowDeadLetters, error) {
			if flow == "none" {
				return nil, fmt.Errorf("flow: %w", ErrNotFound)
			}
			return []FlowDeadLetters{{Flow: flow, Overflow: int64(n), DeadLetters: []DeadLetter{
				{ID: "1-0", Data: strings.Repeat("x", 10)},
				{ID: "2-0", Data: strings.Repeat("y", maxReply)},
				{ID: "3-0", Fields: map[string]string{"a": "b"}},
			}}}, nil
		},
		RemoveDeadLetter: func(_ context.Context, flow, id string) error {
			d.removed = append(d.removed, flow+"/"+id)
			if d.missing {
				return ErrNotFound
			}
			return d.fail
		},
		ReplayDeadLetter: func(_ context.Context, flow, id string, keep bool) (string, error) {
			if d.missing {
				return "", ErrNotFound
			}
			return fmt.Sprintf("%s/%s/%t", flow, id, keep), d.fail
		},
		ForgetCoordinator: func(provider, coordinator string) (bool, error) {
			if provider != "ibkr" {
				return false, errors.New("unknown provider")
			}
			return coordinator == "bars_1", nil
		},
		Pacer: d.pacer,
		Ingest: func(_ context.Context, e Entry) (string, error) {
			d.entries = append(d.entries, e)
			return "1-0", d.fail
		},
	}, slog.New(slog.NewTextHandler(&d.log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	d.server = s
	done := make(chan error, 1)
	go func() { done <- s.Serve() }()
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	d.base = "http://" + s.Addr()
	return d
}

// ask makes a request and returns its status and body.
func (d *desk) ask(method, path, body string, header ...string) (int, http.Header, string) {
	d.t.Helper()
	req, err := http.NewRequest(method, d.base+path, strings.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	if token := d.server.config.OperatorToken; token != "" {
		req.Header.Set("Authorization", "Bearer "+token) // unless the test says otherwise
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(text)
}

// operator is the token of operators in these tests.
const operator = "operate"

func TestPages(t *testing.T) {
	d := open(t, Config{OperatorToken: operator})
	for _, tt := range []struct {
		method, path string
		status       int
		contains     string
	}{
		{"GET", "/", 200, "/metrics"},
		{"GET", "/metrics", 200, "answer 0"},
		{"GET", "/healthz", 200, `"ok"`},
		{"GET", "/flows", 200, "feedback"},
		{"GET", "/rates", 200, "ibkr"},
		{"GET", "/dlq?flow=feedback&limit=7", 200, `"overflow": 7`},
		{"GET", "/dlq", 200, `"overflow": 20`},
		{"GET", "/dlq?limit=0", 400, "from 1 to 1000"},
		{"GET", "/dlq?limit=x", 400, "from 1 to 1000"},
		{"GET", "/dlq?flow=none", 404, "not found"},
		{"DELETE", "/dlq/feedback/5-0", 200, "5-0"},
		{"POST", "/dlq/feedback/5-0/replay", 200, "feedback/5-0/false"},
		{"POST", "/dlq/feedback/5-0/replay?keep=true", 200, "feedback/5-0/true"},
		{"DELETE", "/rates/ibkr/coordinators/bars_1", 200, "bars_1"},
		{"DELETE", "/rates/ibkr/coordinators/bars_2", 404, "holds no level"},
		{"DELETE", "/rates/nobody/coordinators/bars_1", 404, "unknown provider"},
		{"GET", "/nothing", 404, ""},
		{"GET", "/ingest/telemetry.feedback", 405, ""},
		{"POST", "/metrics", 405, ""},
	} {
		status, _, body := d.ask(tt.method, tt.path, "")
		if status != tt.status || !strings.Contains(body, tt.contains) {
			t.Errorf("%s %s: %d %q, want %d with %q", tt.method, tt.path, status, body, tt.status, tt.contains)
		}
	}
	if diff := cmp.Diff([]string{"feedback/5-0"}, d.removed); diff != "" {
		t.Errorf("removed (-want +got):\n%s", diff)
	}
}

func TestReadyz(t *testing.T) {
	d := open(t, Config{})
	for status, want := range map[string]int{Ready: 200, Disabled: 200, Degraded: 503, Starting: 503, Stopping: 503} {
		d.ready = Readiness{Status: status, Reasons: []string{"because"}}
		code, header, body := d.ask("GET", "/readyz", "")
		var got Readiness
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Fatal(err)
		}
		if code != want || header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d (%s), want %d", status, code, header.Get("Content-Type"), want)
		}
		if diff := cmp.Diff(d.ready, got); diff != "" {
			t.Errorf("body (-want +got):\n%s", diff)
		}
	}
}

func TestIngest(t *testing.T) {
	const event = `{"coordinator_id": "bars_1", "level": "ok"}`
	large := `{"a": "` + strings.Repeat("x", 1<<20) + `"}`
	for _, tt := range []struct {
		name, body string
		fail       error
		status     int
	}{
		{"an object", event, nil, 202},
		{"white space around it", " \n\t" + event + "\r\n", nil, 202},
		{"no JSON", "level: ok", nil, 400},
		{"nothing", "", nil, 400},
		{"an array", "[" + event + "]", nil, 400},
		{"a string", `"x"`, nil, 400},
		{"two objects", event + event, nil, 400},
		{"too large", large, nil, 413},
		{"unknown stream", event, ErrUnknownStream, 404},
		{"bus full", event, ErrUnavailable, 503},
		{"envelope too large", event, ErrTooLarge, 413},
		{"any other failure", event, errors.New("secret detail"), 500},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := open(t, Config{})
			d.fail = tt.fail
			status, header, body := d.ask("POST", "/ingest/telemetry.feedback", tt.body, "Content-Type", "text/weird")
			if status != tt.status {
				t.Fatalf("status %d %q, want %d", status, body, tt.status)
			}
			if status == 202 && !strings.Contains(body, `"id": "1-0"`) {
				t.Errorf("body %q, want the id", body)
			}
			if status == 503 && header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
			if strings.Contains(body, "secret") {
				t.Errorf("body %q tells an internal detail", body)
			}
			if tt.fail == nil && (len(d.entries) == 1) != (status == 202) {
				t.Errorf("%d entries reached the bus", len(d.entries))
			}
		})
	}
}

func TestIngestPassesOnIdentity(t *testing.T) {
	d := open(t, Config{})
	d.ask("POST", "/ingest/telemetry.feedback", "{}", HeaderOriginalID, "7-1", HeaderReplays, "2")
	want := []Entry{{Topic: "telemetry.feedback", Data: []byte("{}"), OriginalID: "7-1", Replays: "2"}}
	if diff := cmp.Diff(want, d.entries); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}

func TestIngestToken(t *testing.T) {
	d := open(t, Config{Token: "open sesame"})
	for _, tt := range []struct {
		name, header string
		status       int
	}{
		{"none", "", 401},
		{"bearer", "Bearer open sesame", 202},
		{"bearer, any case", "bearer open sesame", 202},
		{"wrong bearer", "Bearer open", 401},
		{"longer bearer", "Bearer open sesame!", 401},
		{"basic, any user", "Basic c3RvcmU6b3BlbiBzZXNhbWU=", 202},
		{"basic, no user", "Basic Om9wZW4gc2VzYW1l", 202},
		{"wrong basic", "Basic c3RvcmU6c2hhdA==", 401},
		{"token as user", "Basic b3BlbiBzZXNhbWU6", 401},
		{"another scheme", "Token open sesame", 401},
		{"no scheme", "open sesame", 401},
	} {
		var header []string
		if tt.header != "" {
			header = []string{"Authorization", tt.header}
		}
		status, got, _ := d.ask("POST", "/ingest/telemetry.feedback", "{}", header...)
		if status != tt.status {
			t.Errorf("%s: %d, want %d", tt.name, status, tt.status)
		}
		if status == 401 && len(got.Values("WWW-Authenticate")) != 2 {
			t.Errorf("%s: challenges %v", tt.name, got.Values("WWW-Authenticate"))
		}
	}
	if status, _, _ := d.ask("DELETE", "/dlq/feedback/5-0", ""); status != 401 || len(d.removed) != 0 {
		t.Errorf("a dead letter was removed without a token: %d", status)
	}
	if status, _, _ := d.ask("GET", "/metrics", ""); status != 200 {
		t.Errorf("metrics: %d, want 200: they need no token", status)
	}
}

func TestOperatorToken(t *testing.T) {
	d := open(t, Config{Token: "publish", OperatorToken: "operate"})
	for _, tt := range []struct {
		method, path, token string
		status              int
		body                string
	}{
		{"DELETE", "/dlq/feedback/5-0", "", 401, "this needs the operator's token (admin.operator_token)"},
		{"DELETE", "/dlq/feedback/5-0", "publish", 401, "this needs the operator's token (admin.operator_token)"},
		{"DELETE", "/dlq/feedback/5-0", "operate", 200, ""},
		{"POST", "/ingest/telemetry.feedback", "operate", 401, "this needs the publisher's token (admin.publisher_token)"},
		{"POST", "/ingest/telemetry.feedback", "publish", 202, ""},
	} {
		status, _, body := d.ask(tt.method, tt.path, "{}", "Authorization", "Bearer "+tt.token)
		if status != tt.status || !strings.Contains(body, tt.body) {
			t.Errorf("%s %s with %q: %d %s, want %d with %s", tt.method, tt.path, tt.token, status, body, tt.status, tt.body)
		}
	}
	d = open(t, Config{Token: "publish"})
	if _, _, body := d.ask("GET", "/dlq", ""); !strings.Contains(body, "the publisher's token") {
		t.Errorf("without an operator's token: %s", body)
	}
}

// A page that a browser on this machine shows must not post events here.
func TestIngestRefusesOtherOrigins(t *testing.T) {
	d := open(t, Config{})
	status, _, _ := d.ask("POST", "/ingest/telemetry.feedback", "{}", "Origin", "https://example.com")
	if status != http.StatusForbidden || len(d.entries) != 0 {
		t.Errorf("status %d with %d entries, want 403 and none", status, len(d.entries))
	}
}

// A reply carries payloads as long as there is room; the rest is listed without.
func TestDeadLetterPayloads(t *testing.T) {
	d := open(t, Config{})
	for query, want := range map[string][]bool{"": {false, true, false}, "?data=false": {true, true, true}} {
		_, _, body := d.ask("GET", "/dlq"+query, "")
		var page struct{ Flows []FlowDeadLetters }
		if err := json.Unmarshal([]byte(body), &page); err != nil {
			t.Fatal(err)
		}
		for i, l := range page.Flows[0].DeadLetters {
			if l.DataOmitted != want[i] || l.DataOmitted != (l.Data == "" && l.Fields == nil) {
				t.Errorf("%q: letter %s: omitted %v, %d bytes, want %v", query, l.ID, l.DataOmitted, len(l.Data), want[i])
			}
		}
	}
}

func TestDeadLetterErrors(t *testing.T) {
	d := open(t, Config{})
	for _, tt := range []struct {
		missing bool
		fail    error
		status  int
	}{{true, nil, 404}, {false, errors.New("redis is down"), 503}} {
		d.missing, d.fail = tt.missing, tt.fail
		for _, r := range [][2]string{{"DELETE", "/dlq/feedback/5-0"}, {"POST", "/dlq/feedback/5-0/replay"}} {
			if status, _, _ := d.ask(r[0], r[1], ""); status != tt.status {
				t.Errorf("%s %s: %d, want %d", r[0], r[1], status, tt.status)
			}
		}
	}
}

// Beyond loopback payloads and changes need a token, whatever ingest is allowed.
func TestPublicListener(t *testing.T) {
	for _, tt := range []struct {
		name            string
		config          Config
		token           string
		ingest, operate int
	}{
		{"public ingest, no token", Config{AllowPublicIngest: true}, "", 202, 403},
		{"public ingest, operator token, none given", Config{AllowPublicIngest: true, OperatorToken: "o"}, "", 202, 401},
		{"public ingest, operator token", Config{AllowPublicIngest: true, OperatorToken: "o"}, "o", 202, 200},
		{"publisher token, none given", Config{Token: "p"}, "", 401, 401},
		{"publisher token", Config{Token: "p"}, "p", 202, 200},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.config.Listen = "0.0.0.0:0"
			d := open(t, tt.config)
			d.base = strings.Replace(d.base, "[::]", "127.0.0.1", 1)
			var header []string
			if tt.token != "" || tt.config.OperatorToken != "" {
				header = []string{"Authorization", "Bearer " + tt.token}
			}
			if status, _, _ := d.ask("POST", "/ingest/telemetry.feedback", "{}", header...); status != tt.ingest {
				t.Errorf("ingest: %d, want %d", status, tt.ingest)
			}
			pace := tt.ingest
			if tt.config.Token == "" {
				pace = 403 // events may come from anyone, calls not
			} else if pace == 202 {
				pace = 200
			}
			if status, _, _ := d.ask("POST", "/rates/ibkr/acquire", "", header...); status != pace {
				t.Errorf("acquire: %d, want %d", status, pace)
			}
			for _, r := range [][2]string{{"GET", "/dlq"}, {"DELETE", "/dlq/feedback/5-0"}} {
				if status, _, _ := d.ask(r[0], r[1], "", header...); status != tt.operate {
					t.Errorf("%s %s: %d, want %d", r[0], r[1], status, tt.operate)
				}
			}
		})
	}
}

// A name that resolves to this machine is not this machine's name.
func TestLoopbackListenerServesLoopbackNames(t *testing.T) {
	d := open(t, Config{})
	for host, want := range map[string]int{
		"localhost": 200, "localhost:8088": 200, "127.0.0.1": 200, "[::1]:8088": 200, "evil.example": 421, "evil.example:80": 421,
	} {
		req, err := http.NewRequest(http.MethodGet, d.base+"/dlq", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("host %s: %d, want %d", host, resp.StatusCode, want)
		}
	}
}

func TestIngestRefusesAnOddIdentity(t *testing.T) {
	d := open(t, Config{})
	for _, id := range []string{"a b", "a\tb", "ü", strings.Repeat("1", 129)} {
		status, _, _ := d.ask("POST", "/ingest/telemetry.feedback", "{}", HeaderOriginalID, id)
		if status != 400 || len(d.entries) != 0 {
			t.Errorf("id %q: %d with %d entries, want 400", id, status, len(d.entries))
		}
	}
}

// A connection that never says anything does not hold up the end, nor make it fail.
func TestShutdownWithASilentConnection(t *testing.T) {
	s, err := New(Config{Listen: "127.0.0.1:0"}, Sources{Gatherer: prometheus.NewRegistry()}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve() }()
	conn, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	resp, err := http.Get("http://" + s.Addr() + "/healthz") // by now the silent one was accepted
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	if err := <-done; err != nil {
		t.Errorf("serve: %v", err)
	}
}

func TestConfigValidate(t *testing.T) {
	for _, tt := range []struct {
		config Config
		public bool // refused because of that
		bad    bool
	}{
		{Config{Listen: "127.0.0.1:8088"}, false, false},
		{Config{Listen: "localhost:8088"}, false, false},
		{Config{Listen: "[::1]:8088"}, false, false},
		{Config{Listen: "0.0.0.0:8088"}, true, true},
		{Config{Listen: ":8088"}, true, true},
		{Config{Listen: "[::]:8088"}, true, true},
		{Config{Listen: "example.com:8088"}, true, true},
		{Config{Listen: "0.0.0.0:8088", Token: "t"}, false, false},
		{Config{Listen: "0.0.0.0:8088", AllowPublicIngest: true}, false, false},
		{Config{Listen: "8088"}, false, true},
		{Config{Listen: "127.0.0.1:99999"}, false, true},
		{Config{Listen: "127.0.0.1:abc"}, false, true},
	} {
		err := tt.config.Validate()
		if (err != nil) != tt.bad || errors.Is(err, ErrPublicIngest) != tt.public {
			t.Errorf("%+v: %v", tt.config, err)
		}
	}
	if _, err := New(Config{Listen: ":0"}, Sources{}, slog.New(slog.DiscardHandler)); !errors.Is(err, ErrPublicIngest) {
		t.Errorf("New: %v, want ErrPublicIngest", err)
	}
}

func TestSlowBodyIsCutOff(t *testing.T) {
	d := open(t, Config{ReadTimeout: 200 * time.Millisecond})
	reader, writer := io.Pipe()
	defer writer.Close()
	req, err := http.NewRequest(http.MethodPost, d.base+"/ingest/telemetry.feedback", reader)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = writer.Write([]byte("{")) }()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatalf("no answer to a body that never ends: %v", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("status %d for a body that never ends", resp.StatusCode)
	}
}
