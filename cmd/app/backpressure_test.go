package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/router"
	"github.com/mjdevaccount/pulseflow/stages"
)

// A full in-memory bus turns events away, with the time to come again, and handles
// every one that it took.
func TestFullBusPushesBack(t *testing.T) {
	const capacity = 5
	release := make(chan struct{})
	reg := stages.Builtin()
	if err := reg.AddHandler("block", func(ctx context.Context, _ *stages.Delivery, _ stages.HandleConfig, _ stages.Deps) error {
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return errors.New("cancelled")
		}
	}); err != nil {
		t.Fatal(err)
	}
	file, d := flows.Parse("flows.yaml", []byte(fmt.Sprintf(`
version: 1
bus: {capacity: %d}
admin: {listen: "127.0.0.1:0"}
flows:
  feedback:
    from: {stream: telemetry.feedback}
    stages: [handle: {with: block}]
`, capacity)), func(string) (string, bool) { return "", false })
	if d.HasErrors() {
		t.Fatal(d)
	}
	plan, d := router.NewPlan(file, reg)
	if d.HasErrors() {
		t.Fatal(d)
	}
	svc, err := newService(plan, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- svc.run(ctx, nil, false) }()
	eventually(t, "the flow to run", func() bool { return svc.ready().Status == "ready" }, func() string { return "" })

	post := func() (status int, retryAfter string) {
		t.Helper()
		resp, err := http.Post("http://"+svc.admin.Addr()+"/ingest/telemetry.feedback", "", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.StatusCode, resp.Header.Get("Retry-After")
	}
	accepted := 0
	for status, _ := post(); status == http.StatusAccepted; status, _ = post() {
		if accepted++; accepted > capacity {
			t.Fatalf("%d accepted, more than the bus holds", accepted)
		}
	}
	if status, retryAfter := post(); status != http.StatusServiceUnavailable || retryAfter == "" {
		t.Errorf("full: %d, Retry-After %q; want 503 and a time", status, retryAfter)
	}
	close(release)
	eventually(t, "what was taken to be handled", func() bool {
		return svc.router.Status()[0].Success == int64(accepted)
	}, func() string { return fmt.Sprint(svc.router.Status()) })
	if status, _ := post(); status != http.StatusAccepted {
		t.Errorf("with room again: %d", status)
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("the service does not end")
	}
}
