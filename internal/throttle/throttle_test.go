package throttle_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/brisk-project/brisk/internal/throttle"
)

// echo answers with the body of the request.
type echo struct{}

func (echo) RoundTrip(req *http.Request) (*http.Response, error) {
	content, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(content))}, nil
}

// What is sent and what is received share the limit, and arrive as they are.
func TestTransportLimitsBothDirections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 1 << 20
		transport, err := throttle.NewTransport(echo{}, limit)
		if err != nil {
			t.Fatal(err)
		}
		sent := bytes.Repeat([]byte("0123456789abcdef"), 5<<20/16)
		began := time.Now()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://registry.example/", bytes.NewReader(sent))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		if err != nil || !bytes.Equal(got, sent) {
			t.Fatalf("%d bytes came back: %v", len(got), err)
		}
		if took, want := time.Since(began), 10*time.Second; took < want-200*time.Millisecond || took > want+200*time.Millisecond {
			t.Errorf("10 MiB at 1 MiB/s took %s", took)
		}
		if err := resp.Body.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A body that is sent again, as after a log-in, is limited and complete.
func TestTransportSendsBodiesAgain(t *testing.T) {
	transport, err := throttle.NewTransport(twice{}, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://registry.example/", bytes.NewReader([]byte("content")))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(resp.Body); err != nil || string(got) != "contentcontent" {
		t.Errorf("%q, %v", got, err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Error(err)
	}
}

// twice reads the body of a request two times.
type twice struct{}

func (twice) RoundTrip(req *http.Request) (*http.Response, error) {
	first, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	again, err := req.GetBody()
	if err != nil {
		return nil, err
	}
	second, err := io.ReadAll(again)
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(append(first, second...)))}, nil
}

func TestTransportEndsWithItsRequest(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	transport, err := throttle.NewTransport(echo{}, throttle.MinRate)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://registry.example/", bytes.NewReader(make([]byte, 1<<20)))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := transport.RoundTrip(req)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if err == nil {
		t.Error(resp.Body.Close())
	}
	if _, err := throttle.NewTransport(echo{}, throttle.MinRate-1); err == nil {
		t.Error("a limit that is too low was accepted")
	}
}
