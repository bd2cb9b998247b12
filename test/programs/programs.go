// Package programs builds and starts programs that tests run beside our own, such as containerd:
// it builds them once, and keeps them in the cache directory of the user.
package programs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// Set is a set of programs that are built together.
type Set struct {
	// Name says what they are, as part of the name of a directory.
	Name string
	// Tools is the directory of the script build.sh, which builds them into the
	// directory that it is given, relative to the source file that asks.
	Tools string
	// Sources are the files there, with build.sh, that say what is built.
	Sources []string
	// Last is the program that is there only if all are.
	Last string
	// Timeout is how long building them may take on a slow machine.
	Timeout time.Duration
}

// Dir returns the directory that the programs are in. They are built now if they have
// not been built from these sources before. Processes that ask at the same time wait
// for each other.
func (s Set) Dir(ctx context.Context) (string, error) {
	_, caller, _, ok := runtime.Caller(1)
	if !ok {
		return "", errors.New("finding the sources of the tests: no caller")
	}
	tools := filepath.Join(filepath.Dir(caller), s.Tools)
	key, err := s.key(tools)
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding a place for %s: %w", s.Name, err)
	}
	dir := filepath.Join(cache, "brisk", s.Name+"-"+key)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", fmt.Errorf("making a place for %s: %w", s.Name, err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", fmt.Errorf("locking the place for %s: %w", s.Name, err)
	}
	defer lock.Close() //nolint:errcheck // it is empty
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("locking the place for %s: %w", s.Name, err)
	}
	if _, err := os.Stat(filepath.Join(dir, s.Last)); err == nil {
		return dir, nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(tools, "build.sh"), dir).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", s.Name, err, out)
	}
	return dir, nil
}

// key returns a digest of the sources.
func (s Set) key(tools string) (string, error) {
	var sum []byte
	for _, name := range append(s.Sources, "build.sh") {
		content, err := os.ReadFile(filepath.Join(tools, name))
		if err != nil {
			return "", fmt.Errorf("finding the sources of %s: %w", s.Name, err)
		}
		each := sha256.Sum256(content)
		sum = append(sum, each[:]...)
	}
	key := sha256.Sum256(sum)
	return hex.EncodeToString(key[:8]), nil
}
