package app

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/mjdevaccount/pulseflow/internal/admin"
	"github.com/mjdevaccount/pulseflow/router"
)

// clientTimeout bounds one request to a running service.
const clientTimeout = 10 * time.Second

// remote is a running service's admin listener.
type remote struct {
	base     string
	token    string // of ingest
	operator string // of other changes
	http     *http.Client
}

// newRemote makes a client of the service at address: a URL, or host:port.
func newRemote(address, token, operator string) (*remote, error) {
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return nil, errors.New("the address of the service must be a URL or host:port")
	}
	return &remote{base: strings.TrimSuffix(u.String(), "/"), token: token, operator: operator, http: &http.Client{Timeout: clientTimeout}}, nil
}

// ingest posts one event and returns the id it was given.
func (r *remote) ingest(ctx context.Context, topic string, data []byte, fields map[string]string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.base+"/ingest/"+url.PathEscape(topic),
		bytes.NewReader(data))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	setHeader(req, admin.HeaderOriginalID, fields[router.FieldOriginalID])
	setHeader(req, admin.HeaderReplays, fields[router.FieldReplays])
	var reply struct {
		ID string `json:"id"`
	}
	err = r.do(req, r.token, http.StatusAccepted, &reply)
	return reply.ID, err
}

// operate asks for what an operator may do.
func (r *remote) operate(ctx context.Context, method, path string, reply any) error {
	req, err := http.NewRequestWithContext(ctx, method, r.base+path, nil)
	if err != nil {
		return err
	}
	return r.do(req, cmp.Or(r.operator, r.token), http.StatusOK, reply)
}

func (r *remote) do(req *http.Request, token string, want int, reply any) error {
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := r.http.Do(req)
	if err != nil {
		return fmt.Errorf("ask the running service: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("read the service's answer: %w", err)
	}
	if resp.StatusCode != want {
		var failure struct {
			Error string `json:"error"`
		}
		if json.Unmarshal(body, &failure) != nil || failure.Error == "" {
			failure.Error = http.StatusText(resp.StatusCode)
		}
		return fmt.Errorf("the service answered %d: %s", resp.StatusCode, failure.Error)
	}
	if err := json.Unmarshal(body, reply); err != nil {
		return fmt.Errorf("read the service's answer: %w", err)
	}
	return nil
}

func setHeader(req *http.Request, name, value string) {
	if value != "" {
		req.Header.Set(name, value)
	}
}
