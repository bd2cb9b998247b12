package ops_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/brisk-project/brisk/node/ops"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func get(t *testing.T, cfg ops.Config, path string) (code int, body string) {
	t.Helper()
	reg, err := ops.NewRegistry()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Gatherer = reg
	w := httptest.NewRecorder()
	ops.New(cfg).Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, http.NoBody))
	return w.Code, w.Body.String()
}

func TestPaths(t *testing.T) {
	ready := ops.Config{NotReady: func(context.Context) []error { return nil }}
	full := ops.Config{NotReady: func(context.Context) []error {
		return []error{errors.New("disk: it is full"), errors.New("containerd: it is gone")}
	}}
	pprof := ready
	pprof.Pprof = true
	for _, c := range []struct {
		cfg  ops.Config
		path string
		code int
		want string
	}{
		{ready, "/healthz", http.StatusOK, "ok\n"},
		{ready, "/readyz", http.StatusOK, "ok\n"},
		{full, "/healthz", http.StatusOK, "ok\n"},
		{full, "/readyz", http.StatusServiceUnavailable, "disk: it is full\ncontainerd: it is gone\n"},
		{ready, "/metrics", http.StatusOK, "go_goroutines"},
		{ready, "/debug/pprof/", http.StatusNotFound, ""},
		{pprof, "/debug/pprof/", http.StatusOK, "goroutine"},
		{pprof, "/debug/pprof/heap", http.StatusOK, ""},
	} {
		code, body := get(t, c.cfg, c.path)
		if code != c.code || !strings.Contains(body, c.want) {
			t.Errorf("%s: %d, %.200q", c.path, code, body)
		}
	}
}

func TestRun(t *testing.T) {
	other := httptest.NewServer(http.NotFoundHandler())
	address := other.Listener.Addr().String()
	taken := ops.New(ops.Config{Address: address})
	if err := taken.Run(t.Context()); err == nil {
		t.Error("the address is taken, and it runs")
	}
	other.Close()
	reg, err := ops.NewRegistry()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- ops.New(ops.Config{Address: address, Gatherer: reg}).Run(ctx) }()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/healthz", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
		if err != nil {
			continue // not listening yet
		}
		body, err := io.ReadAll(response.Body)
		if err := errors.Join(err, response.Body.Close()); err != nil || string(body) != "ok\n" {
			t.Errorf("%q, %v", body, err)
		}
		break
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
