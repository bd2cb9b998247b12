// Package trust decides whose indexes a node uses: rules say for which repositories an index or a
// start-up artifact has to be signed, and by which keys. The files with the keys are read again while
// the node runs, so that keys can be added and removed.
package trust

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/brisk-project/brisk/image/signature"
)

// lookAgain is how often the files with keys are read.
const lookAgain = 5 * time.Second

// Rule says what is required of the artifacts in some repositories.
type Rule struct {
	// Repositories are patterns: "*" stands for any characters within a part of the name, "**" for
	// any number of parts. A name begins with the registry.
	Repositories []string
	// Signed requires a signature by one of the keys.
	Signed bool
	// Keys are paths of PEM files with public keys, or such keys themselves.
	Keys []string
}

// Config configures a [Policy].
type Config struct {
	// Rules are tried in their order. What no rule is for needs no signature.
	Rules []Rule
	// Interval is how often the files with keys are read. Default 5 s.
	Interval time.Duration
	// Logger is told of files that cannot be read. nil discards.
	Logger *slog.Logger
}

// Policy is the rules of a node with their keys. It is safe for concurrent use.
type Policy struct {
	cfg Config

	mu    sync.RWMutex // guards what follows
	files map[string]keyFile
}

// keyFile is a file with keys as it was read last.
type keyFile struct {
	keys []*signature.Key
	err  string // why there are no keys, "" if there are
}

// New returns a policy with the keys that are in the files now. A file that cannot be read, now or later, has no keys:
// what has to be signed by them is not used, and everything else goes on.
func New(ctx context.Context, cfg Config) *Policy {
	if cfg.Interval == 0 {
		cfg.Interval = lookAgain
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Policy{cfg: cfg, files: make(map[string]keyFile)}
	p.read(ctx)
	return p
}

// Keys implements registry.Trust.
func (p *Policy) Keys(repo name.Repository) (keys []*signature.Key, required bool) {
	full := repo.RegistryStr() + "/" + repo.RepositoryStr()
	for _, rule := range p.cfg.Rules {
		if !rule.matches(full) {
			continue
		}
		if !rule.Signed {
			return nil, false
		}
		p.mu.RLock()
		defer p.mu.RUnlock()
		for _, file := range rule.Keys {
			keys = append(keys, p.files[file].keys...)
		}
		return keys, true
	}
	return nil, false
}

// Run reads the files with keys again until ctx ends, and calls changed when other keys are in them.
func (p *Policy) Run(ctx context.Context, changed func()) error {
	ticker := time.NewTicker(p.cfg.Interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if p.read(ctx) {
				changed()
			}
		}
	}
}

// read reads all files with keys, and reports whether one has changed.
func (p *Policy) read(ctx context.Context) (changed bool) {
	for _, rule := range p.cfg.Rules {
		for _, file := range rule.Keys {
			changed = p.readFile(ctx, file) || changed
		}
	}
	return changed
}

func (p *Policy) readFile(ctx context.Context, file string) (changed bool) {
	p.mu.RLock()
	before, known := p.files[file]
	p.mu.RUnlock()
	var now keyFile
	var err error
	if IsKey(file) {
		now.keys, err = signature.ParseKeys("the configuration", []byte(file))
	} else {
		now.keys, err = signature.ReadKeys(file)
	}
	if err != nil {
		now.err = err.Error()
	}
	if known && before.same(now) {
		return false
	}
	if err != nil {
		p.cfg.Logger.ErrorContext(ctx, "keys for index.trust cannot be read; what has to be signed by them is not used", "file", file, "error", err)
	} else {
		p.cfg.Logger.InfoContext(ctx, "keys for index.trust are read", "file", file, "keys", now.ids())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.files[file] = now
	return true
}

func (f keyFile) same(other keyFile) bool {
	return f.err == other.err && slices.Equal(f.ids(), other.ids())
}

// ids returns the digests of the keys.
func (f keyFile) ids() []string {
	ids := make([]string, len(f.keys))
	for i, key := range f.keys {
		ids[i] = key.ID.String()
	}
	return ids
}

// matches reports whether the rule is for a repository.
func (r *Rule) matches(repository string) bool {
	for _, pattern := range r.Repositories {
		if match(strings.Split(normal(pattern), "/"), strings.Split(repository, "/")) {
			return true
		}
	}
	return false
}

// normal replaces the usual name of Docker Hub by the one that references have.
func normal(pattern string) string {
	if rest, ok := strings.CutPrefix(pattern, "docker.io/"); ok {
		return name.DefaultRegistry + "/" + rest
	}
	return pattern
}

func match(pattern, parts []string) bool {
	for i, p := range pattern {
		if p == "**" {
			for n := i; n <= len(parts); n++ {
				if match(pattern[i+1:], parts[n:]) {
					return true
				}
			}
			return false
		}
		if i >= len(parts) {
			return false
		}
		if ok, err := path.Match(p, parts[i]); err != nil || !ok {
			return false
		}
	}
	return len(pattern) == len(parts)
}

// IsKey reports whether an element of [Rule].Keys is a key itself, and not the path of a file.
func IsKey(key string) bool { return strings.HasPrefix(strings.TrimSpace(key), "-----BEGIN ") }

// CheckPattern returns what is wrong with a pattern for repositories, nil if it is right.
func CheckPattern(pattern string) error {
	if pattern == "" {
		return errors.New("it is empty")
	}
	doubles := 0
	for part := range strings.SplitSeq(pattern, "/") {
		switch _, err := path.Match(part, ""); {
		case err != nil:
			return fmt.Errorf("%q: %w", part, err)
		case part == "":
			return errors.New("a part of the name is empty")
		case part == "**":
			doubles++
		case strings.Contains(part, "**"):
			return fmt.Errorf("%q: ** stands alone between slashes", part)
		}
	}
	if doubles > 2 {
		return errors.New("it has more than two **")
	}
	return nil
}
