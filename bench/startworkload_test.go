//go:build !race

package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/brisk-project/brisk/bench/coldstart"
	"github.com/brisk-project/brisk/internal/localregistry"
	"github.com/brisk-project/brisk/internal/mkimage"
)

const (
	readyLimit   = 5 * time.Minute
	pollPause    = 5 * time.Millisecond
	answerLimit  = 20 * time.Second
	maxAnswer    = 1 << 20
	repositories = "docker/registry/v2/repositories" // of a distribution registry
)

// workload is an image, and how to find out that its program is ready.
type workload struct {
	name   string
	recipe string // changes when other images are to be made
	build  func(context.Context, string) (v1.Image, error)
	port   int
	ask    func(ctx context.Context, addr string) error // nil for the right answer
}

func workloads() []workload {
	return []workload{
		{coldstart.NodeRED, "1", mkimage.NodeApp, mkimage.NodeAppPort, askHTTP("<title>Node-RED</title>")},
		{coldstart.Redis, "1", mkimage.Redis, mkimage.RedisPort, askRedis},
		{coldstart.PyTorch, "1", mkimage.PyTorch, mkimage.PyTorchPort, askHTTP(mkimage.PyTorchAnswer)},
	}
}

// askHTTP asks for the page / and wants it to contain something.
func askHTTP(want string) func(context.Context, string) error {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	return func(ctx context.Context, addr string) (err error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/", http.NoBody)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, response.Body.Close()) }()
		body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
		if err == nil && (response.StatusCode != http.StatusOK || !strings.Contains(string(body), want)) {
			err = fmt.Errorf("it answers %s: %.200s", response.Status, body)
		}
		return err
	}
}

// askRedis sends PING.
func askRedis(ctx context.Context, addr string) (err error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("PING\r\n")); err != nil {
		return err
	}
	answer := make([]byte, len("+PONG\r\n"))
	if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != "+PONG\r\n" {
		return errors.Join(fmt.Errorf("it answers %q", answer), err)
	}
	return nil
}

func (w *workload) addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(w.port)) }

// free fails the benchmark if something answers where the program is going to.
func (w *workload) free(tb testing.TB) {
	tb.Helper()
	conn, err := (&net.Dialer{}).DialContext(tb.Context(), "tcp", w.addr())
	if err == nil {
		tb.Fatalf("something answers at %s before the program is started", conn.RemoteAddr())
	}
}

// await returns when the program answers as it should.
func (w *workload) await(tb testing.TB, output func() string) {
	tb.Helper()
	var err error
	for begun := time.Now(); time.Since(begun) < readyLimit; <-time.After(pollPause) {
		ctx, cancel := context.WithTimeout(tb.Context(), answerLimit)
		err = w.ask(ctx, w.addr())
		cancel()
		if err == nil {
			return
		}
	}
	tb.Fatalf("%s is not ready after %s: %v; it wrote\n%s", w.name, readyLimit, err, output())
}

// imageRegistry is a registry with one image, in a repository for each way to prepare it.
type imageRegistry struct {
	server   *localregistry.Server
	root     string
	prepared map[string]bool
}

// plain is the repository of the image as it was made.
const plain = "plain"

// openRegistry returns a registry with the image of a workload, which is made if it is not
// there from an earlier run. What Brisk has added to it then is removed.
func openRegistry(tb testing.TB, w *workload) *imageRegistry {
	tb.Helper()
	root := filepath.Join(cacheDir(tb), w.name+"-"+w.recipe)
	others, err := filepath.Glob(filepath.Join(root, repositories, "*"))
	if err != nil {
		tb.Fatal(err)
	}
	for _, other := range others {
		if filepath.Base(other) == plain {
			continue
		}
		if err := os.RemoveAll(other); err != nil {
			tb.Fatal(err)
		}
	}
	server, err := localregistry.Start(tb.Context(), localregistry.Config{Root: root})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := server.Close(); err != nil {
			tb.Error(err)
		}
	})
	r := &imageRegistry{server: server, root: root, prepared: make(map[string]bool)}
	ref := parseReference(tb, r.ref(plain))
	if _, err := remote.Head(ref, remote.WithContext(tb.Context())); err == nil {
		return r
	}
	scratch := newScope(tb)
	defer scratch.close()
	image, err := w.build(tb.Context(), scratch.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	if err := remote.Write(ref, image, remote.WithContext(tb.Context())); err != nil {
		tb.Fatal(err)
	}
	return r
}

// path is that of the image in a repository, without the registry.
func path(repository string) string { return repository + ":v1" }

func (r *imageRegistry) ref(repository string) string {
	return r.server.Addr() + "/" + path(repository)
}

// prepare copies the image to a repository and has something done to it there, once.
func (r *imageRegistry) prepare(tb testing.TB, repository string, do func(ref string)) {
	tb.Helper()
	if r.prepared[repository] || repository == plain {
		return
	}
	image, err := remote.Image(parseReference(tb, r.ref(plain)), remote.WithContext(tb.Context()))
	if err == nil {
		err = remote.Write(parseReference(tb, r.ref(repository)), image, remote.WithContext(tb.Context()))
	}
	if err != nil {
		tb.Fatalf("copying the image to %s: %v", repository, err)
	}
	do(r.ref(repository))
	r.prepared[repository] = true
}

// warm reads what the registry has into the page cache: a registry's disk is not what is
// measured.
func (r *imageRegistry) warm(tb testing.TB) {
	tb.Helper()
	err := filepath.WalkDir(filepath.Join(r.root, "docker"), func(name string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		file, err := os.Open(filepath.Clean(name))
		if err != nil {
			return err
		}
		_, err = io.Copy(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{file})
		return errors.Join(err, file.Close())
	})
	if err != nil {
		tb.Fatalf("reading the registry's files: %v", err)
	}
}

func parseReference(tb testing.TB, ref string) name.Reference {
	tb.Helper()
	parsed, err := name.ParseReference(ref)
	if err != nil {
		tb.Fatal(err)
	}
	return parsed
}

// cacheDir is where images are kept between runs.
func cacheDir(tb testing.TB) string {
	tb.Helper()
	if dir := os.Getenv(cacheEnv); dir != "" {
		return dir
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		tb.Fatal(err)
	}
	return filepath.Join(dir, "brisk", "bench")
}
