package credential

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

const (
	// maxPluginConfig is the longest configuration of plugins in bytes, maxPlugins the
	// most plugins of all of them.
	maxPluginConfig = 1 << 20
	maxPlugins      = 256
	maxPluginFiles  = 256

	pluginGroup = "credentialprovider.kubelet.k8s.io/"
	configGroup = "kubelet.config.k8s.io/"
)

// versions are those of both groups.
func versions() []string { return []string{"v1", "v1beta1", "v1alpha1"} }

// pluginConfig is the configuration file of kubelet, as far as it matters here.
// Fields that are not known are left alone: kubelet has checked the file.
type pluginConfig struct {
	APIVersion string     `yaml:"apiVersion"`
	Kind       string     `yaml:"kind"`
	Providers  []provider `yaml:"providers"`
}

// provider describes one plugin.
type provider struct {
	Name                 string           `yaml:"name"`
	MatchImages          []string         `yaml:"matchImages"`
	DefaultCacheDuration *string          `yaml:"defaultCacheDuration"`
	APIVersion           string           `yaml:"apiVersion"`
	Args                 []string         `yaml:"args"`
	Env                  []envVar         `yaml:"env"`
	TokenAttributes      *tokenAttributes `yaml:"tokenAttributes"`

	cacheFor time.Duration
	places   []place
}

type envVar struct {
	Name  string `yaml:"name"`
	Value string `yaml:"value"`
}

// tokenAttributes say that a plugin is to get the token of the pod's service account.
type tokenAttributes struct {
	RequireServiceAccount *bool `yaml:"requireServiceAccount"`
}

// needsToken reports whether kubelet never runs the plugin without a pod's token.
func (p *provider) needsToken() bool {
	return p.TokenAttributes != nil && (p.TokenAttributes.RequireServiceAccount == nil || *p.TokenAttributes.RequireServiceAccount)
}

// matches reports whether the plugin is for an image.
func (p *provider) matches(image string) bool {
	at, err := parsePlace(image)
	return err == nil && slices.ContainsFunc(p.places, func(pattern place) bool { return pattern.matches(at) })
}

// readPluginConfig reads a configuration file, or all those in a directory in the
// order of their names.
func readPluginConfig(path string) ([]provider, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	files := []string{path}
	if info.IsDir() {
		if files, err = configFiles(path); err != nil {
			return nil, err
		}
	}
	var all []provider
	for _, file := range files {
		data, err := readFile(file, maxPluginConfig)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", file, err)
		}
		providers, err := parsePluginConfig(data)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", file, err)
		}
		all = append(all, providers...)
	}
	return all, checkProviders(all)
}

func configFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, entry := range entries {
		if !entry.IsDir() && slices.Contains([]string{".json", ".yaml", ".yml"}, filepath.Ext(entry.Name())) {
			files = append(files, filepath.Join(dir, entry.Name()))
		}
	}
	if len(files) == 0 || len(files) > maxPluginFiles {
		return nil, fmt.Errorf("%d files with configuration in %s, want 1 to %d", len(files), dir, maxPluginFiles)
	}
	return files, nil
}

// parsePluginConfig reads one configuration file, which is YAML or JSON.
func parsePluginConfig(data []byte) ([]provider, error) {
	if len(data) > maxPluginConfig {
		return nil, fmt.Errorf("%d bytes, the limit is %d", len(data), maxPluginConfig)
	}
	var config pluginConfig
	if err := yaml.NewDecoder(bytes.NewReader(data)).Decode(&config); err != nil {
		return nil, errors.New("not YAML of the right shape") // whose error may quote the environment of a plugin
	}
	version, ok := strings.CutPrefix(config.APIVersion, configGroup)
	if !ok || !slices.Contains(versions(), version) || config.Kind != "CredentialProviderConfig" {
		return nil, fmt.Errorf("kind %.100q of %.100q, want CredentialProviderConfig of %s and one of %v",
			config.Kind, config.APIVersion, configGroup, versions())
	}
	if len(config.Providers) > maxPlugins {
		return nil, fmt.Errorf("%d providers, the limit is %d", len(config.Providers), maxPlugins)
	}
	for i := range config.Providers {
		if err := config.Providers[i].complete(); err != nil {
			return nil, fmt.Errorf("provider %.100q: %w", config.Providers[i].Name, err)
		}
	}
	return config.Providers, nil
}

// complete checks a provider as kubelet does.
func (p *provider) complete() error {
	if p.Name == "" || p.Name == "." || p.Name == ".." || strings.ContainsAny(p.Name, "/ \x00") {
		return errors.New("the name is not that of a file")
	}
	version, ok := strings.CutPrefix(p.APIVersion, pluginGroup)
	if !ok || !slices.Contains(versions(), version) {
		return fmt.Errorf("apiVersion %.100q, want %s and one of %v", p.APIVersion, pluginGroup, versions())
	}
	if len(p.MatchImages) == 0 {
		return errors.New("no matchImages")
	}
	for _, pattern := range p.MatchImages {
		at, err := parsePlace(pattern)
		if err != nil {
			return fmt.Errorf("matchImages: %w", err)
		}
		p.places = append(p.places, at)
	}
	if p.DefaultCacheDuration == nil {
		return errors.New("no defaultCacheDuration")
	}
	var err error
	if p.cacheFor, err = time.ParseDuration(*p.DefaultCacheDuration); err != nil || p.cacheFor < 0 {
		return errors.New("defaultCacheDuration is not a duration")
	}
	for _, e := range p.Env {
		if e.Name == "" || strings.ContainsAny(e.Name, "=\x00") || strings.Contains(e.Value, "\x00") {
			return errors.New("env has an invalid name, or a value with a zero byte")
		}
	}
	return nil
}

func checkProviders(all []provider) error {
	if len(all) == 0 || len(all) > maxPlugins {
		return fmt.Errorf("%d providers, want 1 to %d", len(all), maxPlugins)
	}
	seen := make(map[string]bool, len(all))
	for _, p := range all {
		if seen[p.Name] {
			return fmt.Errorf("two providers named %.100q", p.Name)
		}
		seen[p.Name] = true
	}
	return nil
}
