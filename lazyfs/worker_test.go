package lazyfs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/internal/source"
	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/lazyfs/cache"
	"github.com/brisk-project/brisk/lazyfs/keeper"
)

const (
	// envRole makes this program a keeper or a worker, as envSetup says.
	envRole  = "LAZYFS_TEST_ROLE"
	envSetup = "LAZYFS_TEST_SETUP"

	roleKeeper  = "keeper"
	roleWorker  = "worker"
	roleSystemd = "systemd" // a worker with the store of the service manager
)

// setup is what the processes of a test have to know.
type setup struct {
	Dir      string // holds everything
	Backend  lazyfs.Backend
	Keeper   bool
	Patience time.Duration
	Delay    time.Duration // of the source
	Timeout  time.Duration // of a read
	MaxCache int64
	Refuse   string // image whose layers cannot be opened again
}

func (s setup) state() string  { return filepath.Join(s.Dir, "state") }
func (s setup) socket() string { return filepath.Join(s.Dir, "keeper.sock") }

// The images: each has the layer that all share, and one of its own.
const (
	sharedFile = "shared"
	sharedSize = 6 << 20
	ownFile    = "own"
	ownSize    = 3<<20 + 1<<19
)

var sharedLayer = sync.OnceValue(func() []byte { return blocktest.Tar(sharedFile, blocktest.Random(1, sharedSize)) })

// imageFiles returns what a mounted image holds.
func imageFiles(name string) map[string][]byte {
	seed := byte(2)
	for _, c := range []byte(name) {
		seed = seed*31 + c
	}
	return map[string][]byte{sharedFile: blocktest.Random(1, sharedSize), ownFile: blocktest.Random(seed, ownSize)}
}

// imageStreams returns the layer streams of an image.
func imageStreams(name string) [][]byte {
	return [][]byte{sharedLayer(), blocktest.Tar(ownFile, imageFiles(name)[ownFile])}
}

// command is what a worker is told, answer what it says.
type command struct {
	Op      string // mount, unmount, status, stop
	Image   string
	Target  string
	Overlay bool
	NoFill  bool
}

type answer struct {
	Error  string            `json:",omitempty"`
	Mounts map[string]string `json:",omitempty"` // image by target
	Direct map[string]bool   `json:",omitempty"` // by target
}

// play runs this program as another process of a test.
func play(role string) int {
	var s setup
	err := json.Unmarshal([]byte(os.Getenv(envSetup)), &s)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("role", role, "pid", os.Getpid())
	switch {
	case err != nil:
	case role == roleKeeper:
		err = playKeeper(ctx, s, log)
	default:
		err = playWorker(ctx, s, role, log)
	}
	if err != nil {
		log.ErrorContext(ctx, "ended", "error", err)
		return 1
	}
	return 0
}

func playKeeper(ctx context.Context, s setup, log *slog.Logger) error {
	k, err := keeper.New(keeper.Config{Socket: s.socket(), WaitTimeout: s.Patience, Logger: log})
	if err != nil {
		return err
	}
	return k.Run(ctx)
}

// library knows the layers of all images, as indexes on the machine would.
type library struct {
	mu      sync.Mutex
	streams map[block.Digest]*blocktest.Source
	layouts map[block.Digest]*blocktest.Fixture
	delay   time.Duration
}

func (l *library) add(streams [][]byte) {
	for _, stream := range streams {
		fx := blocktest.New(blocktest.Layer{Data: stream})
		src := blocktest.NewSource(fx)
		src.Delay(l.delay)
		l.mu.Lock()
		if id := fx.Layers()[0].ID; l.streams[id] == nil {
			l.streams[id], l.layouts[id] = src, fx
		}
		l.mu.Unlock()
	}
}

func (l *library) layout(id block.Digest) *blocktest.Fixture {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.layouts[id]
}

func (l *library) StreamSize(id block.Digest) (int64, bool) {
	if fx := l.layout(id); fx != nil {
		return fx.StreamSize(id)
	}
	return 0, false
}

func (l *library) BlockDigest(k block.Key) (block.Digest, bool) {
	if fx := l.layout(k.Layer); fx != nil {
		return fx.BlockDigest(k)
	}
	return block.Digest{}, false
}

func (l *library) Fetch(ctx context.Context, req block.Request, sink block.Sink) error {
	l.mu.Lock()
	src := l.streams[req.Layer]
	l.mu.Unlock()
	if src == nil {
		return &block.Error{Source: "library", Op: "reading", Range: req.Range, Err: block.ErrNotFound}
	}
	return src.Fetch(ctx, req, sink)
}

// index returns the index of a layer stream, which is kept for the next worker.
func (s setup) index(ctx context.Context, stream []byte) ([]byte, error) {
	path := filepath.Join(s.Dir, block.Sum(stream[len(stream)/2:]).Hex()+".index")
	if encoded, err := os.ReadFile(path); err == nil {
		return encoded, nil
	}
	built, err := index.Build(ctx, bytes.NewReader(stream), index.BuildConfig{})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(path+".tmp", built.Encoded, 0o600); err != nil {
		return nil, err
	}
	return built.Encoded, os.Rename(path+".tmp", path)
}

// makeImage makes an image for a worker.
func (s setup) makeImage(ctx context.Context, name string) (lazyfs.Image, error) {
	made := lazyfs.Image{Name: name}
	var digests []block.Digest
	for _, stream := range imageStreams(name) {
		encoded, err := s.index(ctx, stream)
		if err != nil {
			return made, err
		}
		l, err := index.Open(bytes.NewReader(encoded), int64(len(encoded)))
		if err != nil {
			return made, err
		}
		made.Layers, digests = append(made.Layers, l), append(digests, block.Sum(encoded))
	}
	made.ID = lazyfs.ImageID(digests)
	return made, nil
}

func playWorker(ctx context.Context, s setup, role string, log *slog.Logger) (err error) {
	lib := &library{streams: make(map[block.Digest]*blocktest.Source), layouts: make(map[block.Digest]*blocktest.Fixture), delay: s.Delay}
	disk, err := cache.OpenDisk(cache.DiskConfig{Dir: filepath.Join(s.Dir, "cache"), Layout: lib, MaxBytes: s.MaxCache, Logger: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, disk.Close()) }()
	upstream := source.NewSingleFlight(source.ReadThrough(disk, source.Verify(lib, lib, source.VerifyConfig{}), source.ReadThroughConfig{}),
		source.SingleFlightConfig{HedgeDelay: time.Minute})
	cfg := lazyfs.Config{
		StateDir: s.state(), Backend: s.Backend, Local: disk, Logger: log, ReadTimeout: s.Timeout,
		Source: source.Chain(source.Tier{Name: "disk", Source: disk}, source.Tier{Name: "upstream", Source: upstream}),
		Reopen: func(ctx context.Context, m *lazyfs.Mount) ([]*index.Layer, error) {
			if m.Name() == s.Refuse {
				return nil, errors.New("refused by the test")
			}
			lib.add(imageStreams(m.Name()))
			image, err := s.makeImage(ctx, m.Name())
			return image.Layers, err
		},
	}
	switch {
	case role == roleSystemd:
		cfg.Keeper = keeper.FromEnvironment(os.Getenv, os.Getpid())
	case s.Keeper:
		cfg.Keeper = keeper.NewClient(keeper.ClientConfig{Socket: s.socket(), Logger: log})
	}
	fs, err := lazyfs.New(cfg)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 2)
	go func() { ended <- fs.Run(ctx) }()
	go func() { ended <- disk.Run(ctx) }()
	defer func() {
		cancel()
		err = errors.Join(err, <-ended, <-ended)
	}()
	select {
	case <-fs.Ready():
	case err := <-ended:
		ended <- nil
		return err
	}
	disk.DropStalePins()
	return obey(ctx, s, fs, lib)
}

// obey does what the test says until there is nobody to say anything.
func obey(ctx context.Context, s setup, fs *lazyfs.FS, lib *library) error {
	orders, answers := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	if err := answers.Encode(state(fs)); err != nil {
		return err
	}
	for {
		var c command
		if err := orders.Decode(&c); errors.Is(err, io.EOF) || err == nil && c.Op == "stop" {
			return nil
		} else if err != nil {
			return err
		}
		err := do(ctx, s, fs, lib, c)
		reply := state(fs)
		if err != nil {
			reply.Error = err.Error()
		}
		if err := answers.Encode(reply); err != nil {
			return err
		}
	}
}

func state(fs *lazyfs.FS) answer {
	a := answer{Mounts: make(map[string]string), Direct: make(map[string]bool)}
	for _, m := range fs.Mounts() {
		a.Mounts[m.Target()], a.Direct[m.Target()] = m.Name()+string(m.CallerData()), m.Stats().Direct
	}
	return a
}

func do(ctx context.Context, s setup, fs *lazyfs.FS, lib *library, c command) error {
	switch c.Op {
	case "mount":
		lib.add(imageStreams(c.Image))
		image, err := s.makeImage(ctx, c.Image)
		if err != nil {
			return err
		}
		cfg := lazyfs.MountConfig{NoFill: c.NoFill, CallerData: json.RawMessage(`"` + c.Image + `"`)}
		if c.Overlay {
			cfg.Overlay = &lazyfs.Overlay{Upper: c.Target + ".upper", Work: c.Target + ".work"}
		}
		m, err := fs.Mount(ctx, image, c.Target, cfg)
		if err == nil && !c.NoFill {
			<-m.Filled()
		}
		return err
	case "unmount":
		for _, m := range fs.Mounts() {
			if m.Target() == c.Target {
				return m.Unmount(ctx)
			}
		}
		return fmt.Errorf("%s is not mounted", c.Target)
	default:
		return nil
	}
}

// newSetup makes the directories of a test.
func newSetup(t *testing.T, backend lazyfs.Backend) setup {
	t.Helper()
	dir, err := os.MkdirTemp("", "keep") //nolint:usetesting // sockets have short names
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return setup{Dir: dir, Backend: backend, Keeper: true, Patience: 30 * time.Second, Timeout: 20 * time.Second, MaxCache: 64 << 20}
}

// target makes a directory to mount on, with those of an overlay.
func (s setup) target(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(s.Dir, "targets", name)
	for _, d := range []string{dir, dir + ".upper", dir + ".work"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// requireContent reads all of a mounted image.
func requireContent(t *testing.T, image, target string) {
	t.Helper()
	for name, want := range imageFiles(image) {
		got, err := os.ReadFile(filepath.Join(target, name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, error %v, or wrong bytes", filepath.Join(target, name), len(got), err)
		}
	}
}

// requireAllGone checks that nothing is mounted any more, and nothing recorded.
func (s setup) requireAllGone(t *testing.T) {
	t.Helper()
	if left := mountsIn(t, s.Dir); len(left) > 0 {
		t.Errorf("still mounted: %s", strings.Join(left, ", "))
	}
	requireNothingLeft(t, s.state())
	if !s.Keeper {
		return
	}
	client := keeper.NewClient(keeper.ClientConfig{Socket: s.socket()})
	held, err := client.Take(t.Context())
	if err != nil || len(held) > 0 {
		t.Errorf("the keeper still holds %d connections, error %v", len(held), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := client.Run(ctx); err != nil {
		t.Error(err)
	}
}

func number(i int) string { return strconv.Itoa(i) }
