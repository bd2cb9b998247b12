package credential

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	lru "github.com/hashicorp/golang-lru/v2"
)

const (
	// maxResponse is the longest answer of a plugin in bytes.
	maxResponse = 1 << 20
	// maxPluginAnswers is how many answers of a plugin are kept.
	maxPluginAnswers = 1024
	// closeDelay is how long the output of a plugin that was ended is waited for.
	closeDelay = time.Second
)

// The ways in which the answer of a plugin holds for other images.
const (
	perImage    = "Image"
	perRegistry = "Registry"
	perAll      = "Global"
)

// PluginConfig has the paths of the credential provider plugins of kubelet.
type PluginConfig struct {
	// ConfigPath is what kubelet has as --image-credential-provider-config, a file or
	// a directory; BinDir is its --image-credential-provider-bin-dir.
	ConfigPath string
	BinDir     string
	// Logger gets the unusual. nil discards.
	Logger *slog.Logger
}

// NewPlugins returns a source for every plugin of kubelet's configuration, in its
// order. The configuration is read once, as kubelet does. Plugins that only run with
// the token of a pod are logged and left out.
//
// A plugin is run as kubelet runs it: the same program, arguments, environment,
// request and rules for the images it is for. What it answers is kept for as long as
// it says. It is ended, with all that it has started, when the context of a lookup
// ends. What it writes to its standard error is nobody's.
func NewPlugins(cfg PluginConfig) ([]Source, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	providers, err := readPluginConfig(cfg.ConfigPath)
	if err != nil {
		return nil, fmt.Errorf("credential plugins: %w", err)
	}
	var sources []Source
	for _, provider := range providers {
		if provider.needsToken() {
			cfg.Logger.Warn("ignoring a credential plugin that needs the token of a pod", "plugin", provider.Name)
			continue
		}
		kept, err := lru.New[string, pluginAnswer](maxPluginAnswers)
		if err != nil {
			return nil, fmt.Errorf("credential plugins: %w", err)
		}
		sources = append(sources, &Plugin{provider: provider, path: filepath.Join(cfg.BinDir, provider.Name), kept: kept})
	}
	return sources, nil
}

// Plugin is a source that runs a credential provider plugin of kubelet.
type Plugin struct {
	provider provider
	path     string
	kept     *lru.Cache[string, pluginAnswer]
}

// pluginAnswer is an answer of a plugin that holds for a while.
type pluginAnswer struct {
	keys  keyring
	asked time.Time
	until time.Time
}

// Name implements [Source].
func (p *Plugin) Name() string { return "plugin " + p.provider.Name }

// Lookup implements [Source].
func (p *Plugin) Lookup(ctx context.Context, q Query) ([]Answer, error) {
	if !p.provider.matches(q.Image) {
		return nil, nil
	}
	registry, _, _ := strings.Cut(q.Image, "/")
	for _, key := range []string{perImage + q.Image, perRegistry + registry, perAll} {
		a, ok := p.kept.Get(key)
		if ok && time.Now().Before(a.until) && !a.asked.Before(q.After) {
			return a.find(q.Image), nil
		}
	}
	asked := time.Now()
	output, err := p.run(ctx, q.Image)
	if err != nil {
		return nil, err
	}
	r, err := parseResponse(output, p.provider.APIVersion)
	if err != nil {
		return nil, err
	}
	life := p.provider.cacheFor
	if r.life != nil {
		life = *r.life
	}
	a := pluginAnswer{keys: r.keys, asked: asked, until: asked.Add(life)}
	if life > 0 {
		key := map[string]string{perImage: perImage + q.Image, perRegistry: perRegistry + registry, perAll: perAll}[r.holdsFor]
		p.kept.Add(key, a)
	}
	return a.find(q.Image), nil
}

// find returns what an answer has for an image.
func (a pluginAnswer) find(image string) []Answer {
	var answers []Answer
	for _, secret := range a.keys.find(image) {
		answers = append(answers, Answer{Secret: secret, Expires: a.until, Ephemeral: !a.until.After(a.asked)})
	}
	return answers
}

// run runs the plugin and returns what it writes. Its error says nothing of that.
func (p *Plugin) run(ctx context.Context, image string) ([]byte, error) {
	request, err := json.Marshal(map[string]string{
		"kind": "CredentialProviderRequest", "apiVersion": p.provider.APIVersion, "image": image,
	})
	if err != nil {
		return nil, fmt.Errorf("encoding the request: %w", err)
	}
	cmd := exec.CommandContext(ctx, p.path, p.provider.Args...)
	cmd.Env = os.Environ()
	for _, e := range p.provider.Env {
		cmd.Env = append(cmd.Env, e.Name+"="+e.Value)
	}
	output := &limited{left: maxResponse}
	cmd.Stdin, cmd.Stdout = bytes.NewReader(request), output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = closeDelay
	err = cmd.Run()
	switch {
	case output.left < 0:
		return nil, fmt.Errorf("answer longer than %d bytes", maxResponse)
	case ctx.Err() != nil:
		return nil, fmt.Errorf("running it: %w", context.Cause(ctx))
	case err != nil:
		return nil, fmt.Errorf("running it: %w", err)
	}
	return output.data, nil
}

// limited is a buffer that fails beyond its limit.
type limited struct {
	data []byte
	left int
}

// Write implements io.Writer.
func (l *limited) Write(p []byte) (int, error) {
	if l.left -= len(p); l.left < 0 {
		return 0, errors.New("too long")
	}
	l.data = append(l.data, p...)
	return len(p), nil
}

// response is what a plugin answers.
type response struct {
	holdsFor string
	life     *time.Duration // nil: as the configuration says
	keys     keyring
}

// parseResponse reads what a plugin writes. The error does not repeat any of it.
func parseResponse(data []byte, apiVersion string) (*response, error) {
	var wire struct {
		Kind          string  `json:"kind"`
		APIVersion    string  `json:"apiVersion"`
		CacheKeyType  string  `json:"cacheKeyType"`
		CacheDuration *string `json:"cacheDuration"`
		Auth          map[string]struct {
			Username string `json:"username"`
			Password string `json:"password"`
		} `json:"auth"`
	}
	if err := json.Unmarshal(data, &wire); err != nil {
		return nil, errors.New("the answer is not JSON of the right shape")
	}
	if wire.Kind != "CredentialProviderResponse" || wire.APIVersion != apiVersion {
		return nil, fmt.Errorf("the answer is not a CredentialProviderResponse of %s", apiVersion)
	}
	r := &response{holdsFor: wire.CacheKeyType, keys: make(keyring, len(wire.Auth))}
	if r.holdsFor != perImage && r.holdsFor != perRegistry && r.holdsFor != perAll {
		return nil, errors.New("the answer has no valid cacheKeyType")
	}
	if wire.CacheDuration != nil {
		life, err := time.ParseDuration(*wire.CacheDuration)
		if err != nil {
			return nil, errors.New("the answer has a cacheDuration that is no duration")
		}
		r.life = &life
	}
	if len(wire.Auth) > maxAuths {
		return nil, fmt.Errorf("the answer has %d patterns, the limit is %d", len(wire.Auth), maxAuths)
	}
	for pattern, auth := range wire.Auth {
		secret, err := NewSecret(authn.AuthConfig{Username: auth.Username, Password: auth.Password})
		if err != nil {
			return nil, err
		}
		if _, err := parsePlace(pattern); err == nil && !secret.Anonymous() {
			r.keys.add(pattern, secret)
		}
	}
	return r, nil
}
