package credential

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
)

// CheckDockerConfig reports what is wrong with the Docker configuration in a file. The
// error holds no secret.
func CheckDockerConfig(path string) error {
	data, err := readFile(path, maxDockerConfig)
	if err != nil {
		return err
	}
	_, unusable, err := parseDockerConfig(data)
	if err == nil && unusable > 0 {
		err = fmt.Errorf("%d of its entries cannot be used", unusable)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// CheckDirectory reports how many credentials the files of a directory hold, and what is
// wrong with it.
func CheckDirectory(ctx context.Context, path string) (int, error) {
	d := NewDirectory(path, nil)
	paths, err := d.list()
	if err != nil {
		return 0, err
	}
	known := 0
	var errs []error
	for _, path := range paths {
		if ctx.Err() != nil {
			return known, context.Cause(ctx)
		}
		if err := CheckDockerConfig(path); err != nil {
			errs = append(errs, err)
			continue
		}
		if file, ok := d.read(path); ok {
			known += len(file.keys)
		}
	}
	return known, errors.Join(errs...)
}

// CheckCacheFile reports what is wrong with the files of [Config.Path] and its key. Files that
// are not there yet are right.
func CheckCacheFile(path, keyPath string) error {
	if _, err := readKey(keyPath); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", keyPath, err)
	}
	s, err := Open(Config{})
	if err != nil {
		return err
	}
	s.cfg.Path, s.cfg.KeyPath = path, keyPath
	return s.load()
}

// CheckPlugins returns how many plugins the configuration has that can be used, and
// reports what is wrong with it or with their programs.
func CheckPlugins(cfg PluginConfig) (int, error) {
	sources, err := NewPlugins(cfg)
	if err != nil {
		return 0, err
	}
	var errs []error
	for _, source := range sources {
		if p, ok := source.(*Plugin); ok {
			if _, err := exec.LookPath(p.path); err != nil {
				errs = append(errs, fmt.Errorf("%s cannot be run: %w", p.Name(), err))
			}
		}
	}
	return len(sources) - len(errs), errors.Join(errs...)
}
