package admin

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
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
}

func open(t *testing.T, config Config) *desk {
	t.Helper()
	d := &desk{t: t, ready: Readiness{Status: Ready}}
	reg := prometheus.NewRegistry()
	reg.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "answer", Help: "The answer."}))
	config.Listen = "127.0.0.1:0"
	s, err := New(config, Sources{
		Gatherer: reg,
		Ready:    func() Readiness { return d.ready },
		Flows:    func() any { return []string{"feedback"} },
		Rates:    func() any { return []string{"ibkr"} },
		DeadLetters: func(_ context.Context, flow string, n int) ([]FlowDeadLetters, error) {
			if flow == "none" {
				return nil, errors.New("no flow")
			}
			return []FlowDeadLetters{{Flow: flow, Overflow: int64(n)}}, nil
		},
		RemoveDeadLetter: func(_ context.Context, flow, id string) error {
			d.removed = append(d.removed, flow+"/"+id)
			return d.fail
		},
		Ingest: func(_ context.Context, e Entry) (string, error) {
			d.entries = append(d.entries, e)
			return "1-0", d.fail
		},
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
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

func TestPages(t *testing.T) {
	d := open(t, Config{})
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
		{"GET", "/dlq?flow=none", 404, "no flow"},
		{"DELETE", "/dlq/feedback/5-0", 200, "5-0"},
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
	}{
		{"DELETE", "/dlq/feedback/5-0", "", 401},
		{"DELETE", "/dlq/feedback/5-0", "publish", 401},
		{"DELETE", "/dlq/feedback/5-0", "operate", 200},
		{"POST", "/ingest/telemetry.feedback", "operate", 401},
		{"POST", "/ingest/telemetry.feedback", "publish", 202},
	} {
		if status, _, _ := d.ask(tt.method, tt.path, "{}", "Authorization", "Bearer "+tt.token); status != tt.status {
			t.Errorf("%s %s with %q: %d, want %d", tt.method, tt.path, tt.token, status, tt.status)
		}
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
	if err == nil {
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("status %d for a body that never ends", resp.StatusCode)
		}
	}
	if len(d.entries) != 0 {
		t.Error("half a body reached the bus")
	}
}
