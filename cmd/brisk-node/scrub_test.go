package main

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/node/agent"
	"github.com/brisk-project/brisk/test/containerdtest"
	"github.com/brisk-project/brisk/test/registrytest"
)

// flipByte changes a byte of the second block of a layer in the cache of a node.
func (s *site) flipByte(layer registrytest.Layer) {
	s.t.Helper()
	for _, dir := range s.cacheFiles() {
		info, err := os.Stat(dir)
		if err != nil || info.Size() != int64(len(layer.Tar)) {
			continue
		}
		f, err := os.OpenFile(dir, os.O_RDWR, 0)
		if err != nil {
			s.t.Fatal(err)
		}
		_, err = f.WriteAt([]byte{layer.Tar[block.Size+100] ^ 0xff}, block.Size+100)
		if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
			s.t.Fatal(err)
		}
		return
	}
	s.t.Fatal("the cache does not have the layer")
}

// cacheFiles returns the files with the layers in the cache.
func (s *site) cacheFiles() []string {
	s.t.Helper()
	found, err := filepath.Glob(filepath.Join(s.dir, "cache", "layers", "*", "data"))
	if err != nil {
		s.t.Fatal(err)
	}
	return found
}

// A disk that loses the same block twice makes the node not ready. Everything that somebody may
// look at says so, and says no more once the disk is trusted again.
func TestSuspectDisk(t *testing.T) {
	address := freeAddress(t)
	s := newSite(t, "--http", address, "--cache-min-free", "1Mi")
	data, path, sum := files(t, 1, 1<<20)
	ref := s.push("app:v1", true, shell(t), data)
	image := s.Pull(ref)
	s.requireSum("one", image, path, sum)
	ready := func() bool {
		code, body := fetch(t, "http://"+address+"/readyz")
		if code != http.StatusOK && !strings.Contains(body, "disk: it is suspect") {
			t.Errorf("/readyz: %d, %s", code, body)
		}
		return code == http.StatusOK
	}
	for times := 1; times <= 2; times++ {
		if !ready() {
			t.Errorf("the node is not ready before the block has been lost %d times", times)
		}
		s.flipByte(data)
		if _, err := command(t, "scrub", "start", "--dir", s.dir); err != nil {
			t.Fatal(err)
		}
		containerdtest.Await(t, "the block to be mended", containerdtest.Timeout, func() bool {
			status, err := agent.FetchStatus(t.Context(), s.dir)
			return err == nil && status.Scrub.RepairedBlocks == int64(times)
		})
	}
	if ready() {
		t.Error("the node is ready on a suspect disk")
	}
	s.requireSuspect(true)
	if _, err := command(t, "scrub", "trust", "--dir", s.dir); err != nil {
		t.Fatal(err)
	}
	if !ready() {
		t.Error("the node is not ready on a disk that is trusted")
	}
	s.requireSuspect(false)
	s.RemoveImage(ref)
	s.requireEmpty()
}

// requireSuspect checks what status, doctor and the metrics say of the disk.
func (s *site) requireSuspect(want bool) {
	s.t.Helper()
	table, err := command(s.t, "status", "--dir", s.dir)
	if err != nil || strings.Contains(table, "disk: it is suspect") != want || strings.Contains(table, "ready:        yes") == want {
		s.t.Errorf("suspect %t, status: %v\n%s", want, err, table)
	}
	// It finds this and that in a test; what is said of the disk counts.
	out, err := command(s.t, "doctor", "--dir", s.dir, "--containerd", s.Address, "-o", "json")
	if err != nil && !errors.Is(err, errSick) {
		s.t.Fatal(err)
	}
	var findings []struct{ Check, Level, Found string }
	if err := json.Unmarshal([]byte(out), &findings); err != nil {
		s.t.Fatal(err)
	}
	said := false
	for _, f := range findings {
		said = said || f.Check == "bit-rot" && f.Level == "fail" && strings.Contains(f.Found, "is suspect")
	}
	if said != want {
		s.t.Errorf("suspect %t, doctor: %s", want, out)
	}
}
