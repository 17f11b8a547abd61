package admin

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestReload(t *testing.T) {
	d := open(t, Config{Token: "publish", OperatorToken: "operate"})
	for _, tt := range []struct {
		name, token string
		err         error
		status      int
		body        string
	}{
		{"no token", "", nil, 401, "token"},
		{"the publisher's", "publish", nil, 401, "token"},
		{"loaded", "operate", nil, 200, `"result": "told"`},
		{"refused", "operate", fmt.Errorf("file: %w", ErrInvalid), 422, `"result": "told"`},
		{"stopping", "operate", fmt.Errorf("stopping: %w", ErrUnavailable), 503, "stopping"},
		{"failed", "operate", errors.New("failed"), 500, `"result": "told"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d.reload = tt.err
			status, _, body := d.ask("POST", "/reload", "", "Authorization", "Bearer "+tt.token)
			if status != tt.status || !strings.Contains(body, tt.body) {
				t.Errorf("%d %s, want %d with %s", status, body, tt.status, tt.body)
			}
		})
	}
	if status, _, _ := d.ask("GET", "/reload", ""); status != 405 {
		t.Errorf("GET: %d", status)
	}
	if _, _, body := d.ask("GET", "/flows", ""); !strings.Contains(body, `"generation": 3`) || !strings.Contains(body, `"flows": [`) {
		t.Errorf("/flows %s", body)
	}
}
