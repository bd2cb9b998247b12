package credential

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"
)

const (
	defaultPatience      = 5 * time.Second
	defaultLookupTimeout = time.Minute
	defaultNegativeFor   = 5 * time.Second
	defaultRefusedFor    = 10 * time.Second
	// maxRepositories is how many repositories a store knows credentials for. The
	// one used least recently is forgotten.
	maxRepositories = 2048
	// maxCaptured is how many credentials of kubelet are kept for a repository: pods
	// with different Secrets may use the same image.
	maxCaptured = 4
	// lookupsPerSource is how many lookups of one source are under way at most.
	lookupsPerSource = 4
)

// The names of the credentials that come from no [Source].
const (
	captured = "captured"
	nothing  = "none"
)

// Query is what a source is asked.
type Query struct {
	// Repository is where a credential is wanted for, Image what kubelet calls it.
	Repository name.Repository
	Image      string
	// After is when the credential was found that is about to end, or refused: what
	// the source has kept from before is no answer.
	After time.Time
}

// Source knows credentials. It is safe for concurrent use.
type Source interface {
	// Name is for errors and metrics: short, fixed, and no secret.
	Name() string
	// Lookup returns the credentials for a repository, the likeliest first, none if
	// it has none. The error holds no secret. It should end with ctx, though a
	// [Store] does not wait for it.
	Lookup(ctx context.Context, q Query) ([]Answer, error)
}

// Config configures a [Store]. The zero value is a store in memory, which knows only
// what is captured.
type Config struct {
	// Sources are asked in this order, each only if none before has a credential
	// that the registry accepts. Their names differ.
	Sources []Source
	// Path is the file that keeps the credentials, sealed with the key in the file
	// KeyPath, by default that of Path with ".key" behind it. Both are made if they
	// are missing. An empty Path keeps nothing.
	Path    string
	KeyPath string
	// SlowAfter is the time after which a source counts as slow, and the next one is used.
	// Default 5 s.
	SlowAfter time.Duration
	// LookupTimeout is the maximum time of a look-up in one source. Default a minute.
	LookupTimeout time.Duration
	// NegativeFor is for how long a source that had nothing or failed is not asked
	// again for the same repository, RefusedFor for how long a credential is not
	// tried again that was refused. Both vary by a quarter. Defaults 5 s and 10 s.
	NegativeFor time.Duration
	RefusedFor  time.Duration
	// Logger gets the unusual. nil discards.
	Logger *slog.Logger
	// Registerer takes the metrics, nil for none.
	Registerer prometheus.Registerer
}

func (c *Config) complete() error {
	seen := map[string]bool{captured: true, nothing: true, "": true}
	for _, source := range c.Sources {
		if seen[source.Name()] {
			return fmt.Errorf("credential store: two sources named %q", source.Name())
		}
		seen[source.Name()] = true
	}
	if c.SlowAfter < 0 || c.LookupTimeout < 0 || c.NegativeFor < 0 || c.RefusedFor < 0 {
		return errors.New("credential store: negative time")
	}
	for value, fallback := range map[*time.Duration]time.Duration{
		&c.SlowAfter: defaultPatience, &c.LookupTimeout: defaultLookupTimeout,
		&c.NegativeFor: defaultNegativeFor, &c.RefusedFor: defaultRefusedFor,
	} {
		if *value == 0 {
			*value = fallback
		}
	}
	if c.Path != "" && c.KeyPath == "" {
		c.KeyPath = c.Path + ".key"
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Store knows credentials for repositories. It implements registry.Credentials and
// is safe for concurrent use. It works without [Store.Run], which renews credentials
// ahead of their use and writes them to disk.
type Store struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	flights singleflight.Group
	permits map[string]chan struct{} // by name of the source
	wake    chan struct{}            // something to save or renew
	saving  sync.Mutex               // held while the file is written

	mu    sync.Mutex
	repos *lru.Cache[string, *repository]
	dirty bool
}

// repository is what is known of one repository. Fields other than name are guarded
// by the mutex of the store.
type repository struct {
	name     name.Repository
	lease    *lease // what was accepted last
	stale    *lease // what was accepted before
	captured []capture
	refused  map[Secret]refusal
	answers  map[string]*answer // by name of the source
}

// lease is a credential that a registry has accepted, or a newer one from the same
// source.
type lease struct {
	secret    Secret
	source    string
	ephemeral bool
	found     time.Time
	expires   time.Time // zero: unknown
	renewAt   time.Time // zero: never
}

// capture is a credential that kubelet used.
type capture struct {
	secret Secret
	at     time.Time
}

type refusal struct {
	source string
	until  time.Time
}

// answer is what a source said, and until when that holds.
type answer struct {
	found []Answer
	err   error
	asked time.Time
	until time.Time
}

// Open returns a store with what Config.Path keeps. A file that cannot be used, for
// whatever reason, is logged, and the store begins empty: every credential in it can
// be found again. The error is for a configuration that makes no sense.
func Open(cfg Config) (*Store, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	repos, err := lru.New[string, *repository](maxRepositories)
	if err != nil {
		return nil, fmt.Errorf("credential store: %w", err)
	}
	s := &Store{
		cfg: cfg, log: cfg.Logger, metrics: newMetrics(cfg.Registerer), repos: repos,
		permits: make(map[string]chan struct{}, len(cfg.Sources)), wake: make(chan struct{}, 1),
	}
	for _, source := range cfg.Sources {
		s.permits[source.Name()] = make(chan struct{}, lookupsPerSource)
	}
	if cfg.Path != "" {
		if err := s.load(); err != nil {
			s.log.Warn("starting without the stored credentials", "path", cfg.Path, "error", err)
		}
	}
	return s, nil
}

// Capture adds a credential that kubelet used to pull from a repository. The newest
// is tried first, unless another has been accepted.
func (s *Store) Capture(repo name.Repository, a authn.AuthConfig) error {
	secret, err := NewSecret(a)
	if err != nil {
		return fmt.Errorf("capturing a credential for %s: %w", repo, err)
	}
	if secret.Anonymous() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.repository(repo)
	// What was refused may have been given new rights since: kubelet believes in it.
	delete(r.refused, secret)
	if len(r.captured) > 0 && r.captured[0].secret == secret {
		return nil
	}
	kept := []capture{{secret: secret, at: time.Now()}}
	for _, c := range r.captured {
		if c.secret != secret && len(kept) < maxCaptured {
			kept = append(kept, c)
		}
	}
	r.captured = kept
	s.changed()
	return nil
}

// Status describes the credential in use for a repository, without the secret.
type Status struct {
	Repository string `json:"repository"`
	// Source is the name of the source of the credential in use, "captured" for one
	// of kubelet, "none" when none is needed, and empty when none was accepted yet.
	Source string `json:"source,omitempty"`
	// Expires is when it ends. Zero if nobody knows.
	Expires time.Time `json:"expires,omitzero"`
	// Captured is how many credentials of kubelet are kept for the repository.
	Captured int `json:"captured,omitempty"`
}

// Status returns what the store knows, the repository used least recently first.
func (s *Store) Status() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Status, 0, s.repos.Len())
	for _, r := range s.repos.Values() {
		status := Status{Repository: r.name.String(), Captured: len(r.captured)}
		if r.lease != nil {
			status.Source, status.Expires = r.lease.source, r.lease.expires
		}
		all = append(all, status)
	}
	return all
}

// repository returns what is known of repo. The caller holds the mutex.
func (s *Store) repository(repo name.Repository) *repository {
	key := repo.String()
	if r, ok := s.repos.Get(key); ok {
		return r
	}
	r := &repository{name: repo, refused: make(map[Secret]refusal), answers: make(map[string]*answer)}
	s.repos.Add(key, r)
	return r
}

// changed lets Run look for what it has to do. The caller holds the mutex.
func (s *Store) changed() {
	s.dirty = true
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// about returns d give or take a quarter, so that many nodes do not do the same at
// the same moment.
func about(d time.Duration) time.Duration {
	return d - d/4 + rand.N(d/2+1) //nolint:gosec // spreads load, keeps no secret
}
