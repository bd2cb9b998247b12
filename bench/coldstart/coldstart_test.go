package coldstart_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/bench/coldstart"
	"github.com/brisk-project/brisk/test/require"
)

func key(arm coldstart.Arm) coldstart.Key {
	return coldstart.Key{Workload: coldstart.NodeRED, Link: "gigabit", Arm: arm}
}

// results has runs that were ready after so many seconds.
func results(seconds map[coldstart.Arm][]float64) *coldstart.Results {
	r := coldstart.NewResults()
	for arm, runs := range seconds {
		for _, s := range runs {
			r.Add(key(arm), coldstart.Run{Pull: 100 * time.Millisecond, Ready: time.Duration(s*float64(time.Second)) - 100*time.Millisecond})
		}
	}
	return r
}

func TestCheck(t *testing.T) {
	type runs = map[coldstart.Arm][]float64
	for name, test := range map[string]struct {
		runs runs
		want string // part of the error
	}{
		"faster":                       {runs{coldstart.EROFS: {4}, coldstart.Auto: {2, 2, 2}, coldstart.Lazy: {2, 2, 2}}, ""},
		"slower than erofs":            {runs{coldstart.EROFS: {4}, coldstart.Trace: {4.1, 3, 4.2}}, "erofs"},
		"one slow run":                 {runs{coldstart.EROFS: {4}, coldstart.Trace: {3.1, 3, 9}}, ""},
		"later than lazy":              {runs{coldstart.Auto: {2.2, 2.1, 2.2}, coldstart.Lazy: {2, 2, 2}}, "brisk-lazy"},
		"later than lazy by 2 %":       {runs{coldstart.Auto: {2.04, 2.04, 2.04}, coldstart.Lazy: {2, 2, 2}}, ""},
		"later than lazy but once":     {runs{coldstart.Auto: {2.2, 1.9, 2.2}, coldstart.Lazy: {2, 2, 2}}, ""},
		"too few runs to tell":         {runs{coldstart.Auto: {2.2, 2.2}, coldstart.Lazy: {2, 2}}, ""},
		"the machine became slow":      {runs{coldstart.Auto: {2, 4, 8}, coldstart.Lazy: {2, 4, 8}}, ""},
		"rivals are not judged at all": {runs{coldstart.Overlayfs: {9}, coldstart.EROFS: {4}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := results(test.runs).Check()
			if (err != nil) != (test.want != "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestLimit(t *testing.T) {
	limit := coldstart.Limit{Opened: coldstart.OpenedFiles{CompressedBytes: 25e6}, Warm: 800 * time.Millisecond}
	got := limit.Duration(coldstart.Link{BytesPerSecond: 125e6, RoundTrip: 10 * time.Millisecond})
	if want := 1040 * time.Millisecond; got != want {
		t.Errorf("the limit is %s, want %s", got, want)
	}
	if got := (coldstart.Limit{}).Duration(coldstart.Links()[0]); got != 0 {
		t.Errorf("a limit that was not measured is %s", got)
	}
}

func TestTable(t *testing.T) {
	r := results(map[coldstart.Arm][]float64{coldstart.EROFS: {10, 12, 11}, coldstart.Bundle: {1.6, 1.5, 1.4}, coldstart.Auto: {4, 4, 4}})
	r.Limits[coldstart.NodeRED] = coldstart.Limit{Opened: coldstart.OpenedFiles{Files: 2, CompressedBytes: 25e6}, Warm: 960 * time.Millisecond}
	var out bytes.Buffer
	if err := r.Write(&out); err != nil {
		t.Fatal(err)
	}
	var lines [][]string
	for line := range strings.Lines(out.String()) {
		lines = append(lines, strings.Fields(line))
	}
	if len(lines) != 5 {
		t.Fatalf("%d lines, want head, three cells and an image:\n%s", len(lines), &out)
	}
	// image link arm runs pull create ready total min-max L /L /erofs bar ...
	for i, want := range map[int]string{
		1: "nodered gigabit erofs 3 0.10 0.00 10.90 11.00 10.00-12.00 1.20 9.17 1.00 -",
		2: "nodered gigabit brisk-auto 3 0.10 0.00 3.90 4.00 4.00-4.00 1.20 3.33 0.36 missed",
		3: "nodered gigabit brisk-bundle 3 0.10 0.00 1.40 1.50 1.40-1.60 1.20 1.25 0.14 met",
	} {
		if got := strings.Join(lines[i][:13], " "); got != want {
			t.Errorf("line %d is\n%s, want\n%s", i, got, want)
		}
	}
}

func TestPlansNameKnownCells(t *testing.T) {
	everything := coldstart.UniformPlan(1)
	for name, plan := range map[string]coldstart.Plan{"full": coldstart.FullPlan(), "short": coldstart.ShortPlan()} {
		for workload, links := range plan {
			for link, arms := range links {
				for arm := range arms {
					if everything.Rounds(workload, link, arm) != 1 {
						t.Errorf("%s plan: no cell %s/%s/%s", name, workload, link, arm)
					}
				}
			}
		}
	}
}

func TestProcessors(t *testing.T) {
	before, err := coldstart.ReadProcessorTimes()
	if err != nil {
		t.Fatal(err)
	}
	for begun := time.Now(); time.Since(begun) < 300*time.Millisecond; {
		bytes.Repeat([]byte{1}, 1<<10)
	}
	after, err := coldstart.ReadProcessorTimes()
	if err != nil {
		t.Fatal(err)
	}
	if used := after.Since(before); used.Busy <= 0 || used.Busy > 1 || used.Steal < 0 || used.Quiet() {
		t.Errorf("while this program works: %s", used)
	}
}

// TestWatchOpens opens files of a filesystem of its own: some twice, one not, and a
// directory.
func TestWatchOpens(t *testing.T) {
	require.Root(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	random := make([]byte, 5<<20) // more than one chunk
	source := rand.NewChaCha8([32]byte{})
	if _, err := source.Read(random); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"zero": make([]byte, 1<<20), "random": random, "closed": random, "empty": nil} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w, err := coldstart.WatchOpens(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"zero", "random", "zero", "empty", "random"} {
		if _, err := os.ReadFile(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.ReadDir(dir); err != nil {
		t.Fatal(err)
	}
	opens, err := w.Stop()
	if err != nil {
		t.Fatal(err)
	}
	if opens.Files != 3 || opens.Bytes != 6<<20 {
		t.Errorf("%d files of %d bytes, want 3 of %d", opens.Files, opens.Bytes, 6<<20)
	}
	if least, most := int64(5<<20), int64(5<<20+64<<10); opens.CompressedBytes < least || opens.CompressedBytes > most {
		t.Errorf("%d bytes compressed, want from %d to %d", opens.CompressedBytes, least, most)
	}
}
