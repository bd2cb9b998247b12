package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	socketName = "node.sock"
	// headerTimeout ends connections that never send a whole request.
	headerTimeout = 5 * time.Second
	// answerTimeout is how long requests under way may take once the node stops: that to
	// unmount the last image is what stops some nodes, and is to have its answer.
	answerTimeout = 2 * time.Second
	// bodyLimit bounds a request or an answer in bytes: hundreds of mounts fit.
	bodyLimit = 4 << 20
)

// ErrNoNode means that no node runs in a directory.
var ErrNoNode = errors.New("no brisk process serves")

// Client asks the node whose directory is Dir, over the socket in it.
type Client struct{ Dir string }

// Status asks the node for its status.
func (c Client) Status(ctx context.Context) (Status, error) {
	var status Status
	return status, c.ask(ctx, http.MethodGet, "/status", nil, &status)
}

// Get asks the node for anything, such as what [Config.ExtendAPI] has added.
func (c Client) Get(ctx context.Context, path string, answer any) error {
	return c.ask(ctx, http.MethodGet, path, nil, answer)
}

// Mount asks the node to mount an image.
func (c Client) Mount(ctx context.Context, req MountRequest) (MountStatus, error) {
	var status MountStatus
	return status, c.ask(ctx, http.MethodPost, "/mounts", req, &status)
}

// Unmount asks the node to unmount what it has mounted on a directory.
func (c Client) Unmount(ctx context.Context, target string) error {
	return c.ask(ctx, http.MethodDelete, "/mounts", unmountRequest{Target: target}, nil)
}

type unmountRequest struct {
	Target string `json:"target"`
}

// ask sends one request, with body as JSON, and decodes the answer. The node's own
// errors come back as they are; if none runs the error wraps [ErrNoNode].
func (c Client) ask(ctx context.Context, method, path string, body, answer any) error {
	encoded, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encoding request to node: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://node"+path, strings.NewReader(string(encoded)))
	if err != nil {
		return fmt.Errorf("asking node: %w", err)
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "unix", filepath.Join(c.Dir, socketName))
	}}
	defer transport.CloseIdleConnections()
	response, err := transport.RoundTrip(request)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%w %s", ErrNoNode, c.Dir)
	}
	if err != nil {
		return fmt.Errorf("asking node in %s: %w", c.Dir, err)
	}
	content, err := io.ReadAll(io.LimitReader(response.Body, bodyLimit))
	if err = errors.Join(err, response.Body.Close()); err != nil {
		return fmt.Errorf("reading answer of node: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return errors.New(strings.TrimSpace(string(content)))
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(content, answer); err != nil {
		return fmt.Errorf("decoding answer of node: %w", err)
	}
	return nil
}

// serve answers on the socket in the node's directory until ctx ends.
func (n *Node) serve(ctx context.Context) error {
	path := filepath.Join(n.cfg.Dir, socketName)
	// This process has the directory's lock, so a socket in it is a dead one's.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing stale socket: %w", err)
	}
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("listening on the node's socket: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { n.answer(w, n.Status(), nil) })
	mux.HandleFunc("POST /mounts", func(w http.ResponseWriter, r *http.Request) {
		var req MountRequest
		if !decode(w, r, &req) {
			return
		}
		m, err := n.Mount(r.Context(), req)
		if err != nil {
			n.answer(w, nil, err)
			return
		}
		n.answer(w, m.Status(), nil)
	})
	mux.HandleFunc("DELETE /mounts", func(w http.ResponseWriter, r *http.Request) {
		var req unmountRequest
		if decode(w, r, &req) {
			n.answer(w, struct{}{}, n.unmount(r.Context(), req.Target))
		}
	})
	n.serveScrub(mux)
	n.serveTraces(mux)
	n.serveStarts(mux)
	if n.cfg.ExtendAPI != nil {
		n.cfg.ExtendAPI(mux)
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: headerTimeout}
	closed := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		patient, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerTimeout)
		defer cancel()
		err := server.Shutdown(patient)
		if err != nil {
			err = errors.Join(err, server.Close())
		}
		closed <- err
	})
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving the node's socket: %w", err)
	}
	if err := <-closed; err != nil {
		n.log.Debug("closing the node's socket", "error", err)
	}
	return nil
}

func decode(w http.ResponseWriter, r *http.Request, into any) bool {
	if err := json.NewDecoder(io.LimitReader(r.Body, bodyLimit)).Decode(into); err != nil {
		http.Error(w, "decoding request: "+err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

func (n *Node) answer(w http.ResponseWriter, content any, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(content); err != nil {
		n.log.Debug("request to node ended early", "error", err)
	}
}
