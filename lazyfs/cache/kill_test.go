package cache_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/lazyfs/cache"
)

// The victim is this test binary run again to be killed. It fills a cache smaller
// than its layers from several goroutines, so that writing, committing and evicting
// all go on at once.
const (
	victimEnv = "BRISK_CACHE_VICTIM"      // directory of the cache
	seedEnv   = "BRISK_CACHE_VICTIM_SEED" // of the round
	rounds    = 200
)

// killFixture is small so that a round is short: 22 blocks.
func killFixture() *blocktest.Fixture {
	return blocktest.New(
		blocktest.Layer{Name: "one", Data: blocktest.Random(21, 9*block.Size+512)},
		blocktest.Layer{Name: "two", Data: blocktest.Random(22, 9*block.Size)},
		blocktest.Layer{Name: "three", Data: blocktest.Random(23, 2*block.Size+7)},
	)
}

func killConfig(dir string, fx block.Layout) cache.DiskConfig {
	return cache.DiskConfig{Dir: dir, Layout: fx, MaxBytes: 14 * block.Size, CommitInterval: time.Millisecond}
}

func victimMain(dir string) int {
	if err := victim(dir); err != nil {
		fmt.Fprintln(os.Stderr, "victim:", err)
		return 1
	}
	return 0
}

func victim(dir string) error {
	seed, err := strconv.ParseUint(os.Getenv(seedEnv), 10, 64)
	if err != nil {
		return err
	}
	fx := killFixture()
	d, err := cache.OpenDisk(killConfig(dir, fx))
	if err != nil {
		return err
	}
	random := rand.New(rand.NewPCG(seed, 0))
	// Half of the victims kill themselves at a point chosen at random, the others
	// wait for the test to do it.
	if seed%2 == 0 {
		var calls atomic.Int64
		last := int64(1 + random.IntN(120))
		points := []string{"written", "flushed", "cleared", "forgotten", "punched", ""}
		point := points[random.IntN(len(points))]
		if point != "" {
			last = 1 + last%7
		}
		d.SetHook(func(p string) {
			if (point == "" || p == point) && calls.Add(1) == last {
				if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
					panic(err)
				}
				select {} // the signal is on its way
			}
		})
	}
	failed := make(chan error, 4)
	go func() { failed <- d.Run(context.Background()) }()
	var keys []block.Key
	for k := range fx.Keys() {
		keys = append(keys, k)
	}
	if _, err := fmt.Fprintln(os.Stdout, "ready"); err != nil {
		return err
	}
	for i := range 3 {
		own := rand.New(rand.NewPCG(seed, uint64(i)+1))
		go func() {
			for {
				k := keys[own.IntN(len(keys))]
				if err := d.Put(context.Background(), k, fx.Content(k)); err != nil && !errors.Is(err, syscall.ENOSPC) {
					failed <- err
					return
				}
				<-time.After(time.Duration(own.IntN(int(time.Millisecond))))
			}
		}()
	}
	return <-failed
}

// TestKill kills a process that writes to a cache, at random moments and between
// the steps of writing and evicting, and reads everything afterwards.
func TestKill(t *testing.T) {
	n := rounds
	if testing.Short() {
		n = 20
	}
	fx := killFixture()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	var held atomic.Int64
	// A process that is being started has the locks of all caches open in this one
	// until it runs its program, so starting and opening take turns.
	var turn sync.Mutex
	const workers = 2
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			dir := filepath.Join(t.TempDir(), "cache")
			random := rand.New(rand.NewPCG(seed, uint64(w)))
			for i := range n / workers {
				roundSeed := random.Uint64()>>1<<1 + uint64(i%2)
				if err := runVictim(&turn, dir, roundSeed, time.Duration(random.Int64N(int64(40*time.Millisecond)))); err != nil {
					t.Errorf("round %d: %v", i, err)
					return
				}
				turn.Lock()
				n, err := examine(dir, fx, i%5 == 4)
				turn.Unlock()
				if err != nil {
					t.Errorf("worker %d, round %d, seed %d: %v", w, i, roundSeed, err)
					return
				}
				held.Add(int64(n))
			}
		})
	}
	wg.Wait()
	t.Logf("%d rounds, %d blocks found after the kill and right", n, held.Load())
	if held.Load() == 0 {
		t.Error("no block ever survived: nothing was tested")
	}
}

// runVictim runs a victim and kills it some time after it has begun.
func runVictim(turn *sync.Mutex, dir string, seed uint64, after time.Duration) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), victimEnv+"="+dir, seedEnv+"="+strconv.FormatUint(seed, 10))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	turn.Lock()
	err = cmd.Start()
	turn.Unlock()
	if err != nil {
		return err
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		return errors.Join(fmt.Errorf("victim said %q: %w", line, err), cmd.Process.Kill(), cmd.Wait())
	}
	if seed%2 == 0 { // it kills itself, unless it never comes to the point
		after = 500 * time.Millisecond
	}
	timer := time.AfterFunc(after, cancel) // which kills it
	defer timer.Stop()
	err = cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return fmt.Errorf("victim ended by itself: %w", err)
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		return fmt.Errorf("victim was not killed: %w", err)
	}
	return nil
}

// examine opens the cache that the victim left and checks every block. No block may
// be wrong, and the order of writes alone must see to it: verification, which is the
// second line of defence, may not find anything either.
func examine(dir string, fx *blocktest.Fixture, clean bool) (held int, err error) {
	reg := prometheus.NewRegistry()
	cfg := killConfig(dir, fx)
	cfg.Registerer = reg
	cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	d, err := cache.OpenDisk(cfg)
	if err != nil {
		return 0, err
	}
	for _, l := range fx.Layers() {
		err := d.Fetch(context.Background(), block.Request{Range: l.Range()}, func(k block.Key, data []byte) error {
			if want, _ := fx.BlockDigest(k); block.Sum(data) != want {
				return fmt.Errorf("block %s is wrong", k)
			}
			held++
			return nil
		})
		if err != nil && !errors.Is(err, block.ErrNotFound) {
			return held, errors.Join(err, d.Abandon())
		}
	}
	if u := d.Usage(); u.Bytes > u.MaxBytes {
		return held, errors.Join(fmt.Errorf("cache holds %d bytes, more than %d", u.Bytes, u.MaxBytes), d.Abandon())
	}
	n, err := testutil.GatherAndCount(reg, "brisk_cache_disk_corrupt_blocks_total")
	if err != nil || n != 1 {
		return held, errors.Join(fmt.Errorf("%d counters of corrupt blocks: %w", n, err), d.Abandon())
	}
	if n := counter(reg, "brisk_cache_disk_corrupt_blocks_total"); n != 0 {
		return held, errors.Join(fmt.Errorf("records promised %v blocks that were not there", n), d.Abandon())
	}
	if clean {
		return held, d.Close()
	}
	return held, d.Abandon()
}

// counter returns the value of a counter without labels, -1 if there is none.
func counter(reg *prometheus.Registry, name string) float64 {
	families, err := reg.Gather()
	if err != nil {
		return -1
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	return -1
}

// TestPowerLoss takes the data away that a record promises, as a machine that loses
// power does when its disk lies about flushes.
func TestPowerLoss(t *testing.T) {
	fx := killFixture()
	for seed := range uint64(10) {
		dir := t.TempDir()
		cfg := cache.DiskConfig{Dir: dir, Layout: fx}
		d, err := cache.OpenDisk(cfg)
		if err != nil {
			t.Fatal(err)
		}
		fill(t, d, fx)
		if err := errors.Join(d.Commit(), d.Abandon()); err != nil {
			t.Fatal(err)
		}
		random := rand.New(rand.NewPCG(seed, 0))
		lost := make(map[block.Key]bool)
		for _, l := range fx.Layers() {
			data, err := os.OpenFile(filepath.Join(dir, "layers", l.ID.Hex(), "data"), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				off := random.Int64N(int64(len(l.Data))) / 4096 * 4096
				n := min(4096*(1+random.Int64N(100)), int64(len(l.Data))-off)
				if _, err := data.WriteAt(make([]byte, n), off); err != nil {
					t.Fatal(err)
				}
				for r, i := block.Covering(l.ID, off, n), uint32(0); i < r.Count; i++ {
					lost[r.Key(i)] = true
				}
			}
			if err := data.Close(); err != nil {
				t.Fatal(err)
			}
		}
		d = openDisk(t, cfg)
		// Once block by block, once through the fast path.
		for k := range fx.Keys() {
			p := make([]byte, len(fx.Content(k)))
			_, err := d.ReadAt(k.Layer, p, k.Offset())
			if lost[k] != errors.Is(err, block.ErrNotFound) || !lost[k] && block.Sum(p) != block.Sum(fx.Content(k)) {
				t.Errorf("seed %d: block %s: lost is %t, error of the read is %v", seed, k, lost[k], err)
			}
		}
		for _, l := range fx.Layers() {
			if _, err := blocktest.Fetch(t.Context(), t, fx, d, l.Range()); !errors.Is(err, block.ErrNotFound) {
				t.Errorf("seed %d: fetch of a damaged layer: %v", seed, err)
			}
			if d.Complete(l.ID) {
				t.Errorf("seed %d: damaged layer counts as complete", seed)
			}
		}
		fill(t, d, fx)
		for _, l := range fx.Layers() {
			if _, err := blocktest.Fetch(t.Context(), t, fx, d, l.Range()); err != nil {
				t.Errorf("seed %d: after the repair: %v", seed, err)
			}
		}
	}
}
