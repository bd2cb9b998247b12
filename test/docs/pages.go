package docs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Root returns the directory of the repository.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the repository: %w", err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("finding the repository: no go.mod in this directory or above it")
		}
	}
}

// Pages returns the text of all Markdown files by their path from the root of the repository.
func Pages(root string) (map[string]string, error) {
	found := make(map[string]string)
	files := os.DirFS(root)
	err := fs.WalkDir(files, ".", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == ".git" || entry.Name() == "bin"):
			return filepath.SkipDir
		case entry.IsDir() || filepath.Ext(path) != ".md":
			return nil
		}
		text, err := fs.ReadFile(files, path)
		if err != nil {
			return err
		}
		found[path] = string(text)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the documentation: %w", err)
	}
	if len(found) < 20 {
		return nil, fmt.Errorf("found %d pages in %s, want all of the documentation", len(found), root)
	}
	return found, nil
}
