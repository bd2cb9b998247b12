package credential

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// cacheFile is the content of the encrypted file.
type cacheFile struct {
	Repositories []cachedRepository `json:"repositories"` // the one used least recently first
}

type cachedRepository struct {
	Name     string         `json:"name"`
	Insecure bool           `json:"insecure,omitempty"`
	Lease    cachedSecret   `json:"lease,omitzero"`
	Captured []cachedSecret `json:"captured,omitempty"` // the newest first
}

// cachedSecret spells a secret out, as [Secret] itself refuses to.
type cachedSecret struct {
	Username      word      `json:"username,omitempty"`
	Password      word      `json:"password,omitempty"`
	IdentityToken word      `json:"identityToken,omitempty"`
	RegistryToken word      `json:"registryToken,omitempty"`
	Source        string    `json:"source,omitempty"`
	Expires       time.Time `json:"expires,omitzero"`
	RenewAt       time.Time `json:"renewAt,omitzero"`
	Found         time.Time `json:"found,omitzero"`
}

func cachedSecretOf(s Secret) cachedSecret {
	a := s.reveal()
	return cachedSecret{
		Username: word(a.Username), Password: word(a.Password),
		IdentityToken: word(a.IdentityToken), RegistryToken: word(a.RegistryToken),
	}
}

func (k cachedSecret) secret() (Secret, error) {
	return NewSecret(authn.AuthConfig{
		Username: string(k.Username), Password: string(k.Password),
		IdentityToken: string(k.IdentityToken), RegistryToken: string(k.RegistryToken),
	})
}

// encode returns what is to be kept of the store.
func (s *Store) encode() ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all cacheFile
	for _, r := range s.repos.Values() {
		k := cachedRepository{Name: r.name.String(), Insecure: r.name.Scheme() == "http"}
		if l := r.lease; l != nil && !l.ephemeral && !l.secret.Anonymous() {
			lease := cachedSecretOf(l.secret)
			lease.Source, lease.Found, lease.Expires, lease.RenewAt = l.source, l.found, l.expires, l.renewAt
			k.Lease = lease
		}
		for _, c := range r.captured {
			secret := cachedSecretOf(c.secret)
			secret.Found = c.at
			k.Captured = append(k.Captured, secret)
		}
		if k.Lease != (cachedSecret{}) || len(k.Captured) > 0 {
			all.Repositories = append(all.Repositories, k)
		}
	}
	s.dirty = false
	data, err := json.Marshal(all)
	if err != nil {
		return nil, fmt.Errorf("encoding credentials: %w", err)
	}
	return data, nil
}

// decode reads what encode wrote. Entries that make no sense are left out: the seal
// says that they were written by us, but perhaps with other limits.
func decode(data []byte) ([]*repository, error) {
	var all cacheFile
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, errors.New("the sealed content is not JSON of the right shape")
	}
	if len(all.Repositories) > maxRepositories {
		return nil, fmt.Errorf("%d repositories, the limit is %d", len(all.Repositories), maxRepositories)
	}
	repos := make([]*repository, 0, len(all.Repositories))
	for _, k := range all.Repositories {
		var options []name.Option
		if k.Insecure {
			options = append(options, name.Insecure)
		}
		repo, err := name.NewRepository(k.Name, options...)
		if err != nil {
			continue
		}
		r := &repository{name: repo, refused: make(map[Secret]refusal), answers: make(map[string]*answer)}
		if secret, err := k.Lease.secret(); err == nil && !secret.Anonymous() {
			r.lease = &lease{
				secret: secret, source: k.Lease.Source,
				found: k.Lease.Found, expires: k.Lease.Expires, renewAt: k.Lease.RenewAt,
			}
		}
		for _, c := range k.Captured[:min(len(k.Captured), maxCaptured)] {
			if secret, err := c.secret(); err == nil && !secret.Anonymous() {
				r.captured = append(r.captured, capture{secret: secret, at: c.Found})
			}
		}
		repos = append(repos, r)
	}
	return repos, nil
}

// load reads the sealed file, if there is one.
func (s *Store) load() error {
	sealed, err := readFile(s.cfg.Path, maxSealed)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading sealed credentials: %w", err)
	}
	key, err := readKey(s.cfg.KeyPath)
	if err != nil {
		return fmt.Errorf("reading the sealing key: %w", err)
	}
	data, err := unseal(key, sealed)
	if err != nil {
		return fmt.Errorf("reading sealed credentials: %w", err)
	}
	repos, err := decode(data)
	if err != nil {
		return fmt.Errorf("reading sealed credentials: %w", err)
	}
	for _, r := range repos {
		s.repos.Add(r.name.String(), r)
	}
	return nil
}

// Save writes what there is to keep to Config.Path, unless nothing has changed since
// the last time. [Store.Run] calls it, too. Two calls at a time write the same.
func (s *Store) Save() error {
	s.saving.Lock()
	defer s.saving.Unlock()
	s.mu.Lock()
	dirty := s.dirty
	s.mu.Unlock()
	if !dirty || s.cfg.Path == "" {
		return nil
	}
	if err := s.save(); err != nil {
		s.mu.Lock()
		s.dirty = true
		s.mu.Unlock()
		return fmt.Errorf("keeping credentials: %w", err)
	}
	return nil
}

func (s *Store) save() error {
	key, err := nodeKey(s.cfg.KeyPath)
	if err != nil {
		return err
	}
	data, err := s.encode()
	if err != nil {
		return err
	}
	sealed, err := seal(key, data)
	if err != nil {
		return err
	}
	return replaceFile(s.cfg.Path, sealed)
}
