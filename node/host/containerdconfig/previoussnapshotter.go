package containerdconfig

import (
	"fmt"
	"path/filepath"
	"slices"

	"github.com/brisk-project/brisk/node/host/tomledit"
)

// defaultSnapshotter is the default of the CRI.
const defaultSnapshotter = "overlayfs"

// PreviousSnapshotter returns the snapshotter that the CRI uses in the state [Absent].
func (t Target) PreviousSnapshotter() (string, error) {
	main, err := t.load(t.Main)
	if err != nil {
		return "", err
	}
	backup, err := t.load(t.Main + backupSuffix)
	if err != nil {
		return "", err
	}
	wanted, _, err := t.mains(Absent, main, backup)
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", t.Main, err)
	}
	if wanted == nil {
		return defaultSnapshotter, nil
	}
	doc, err := tomledit.Parse(wanted)
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", t.Main, err)
	}
	found := selected(doc, defaultSnapshotter)
	for _, pattern := range imported(doc) {
		if found, err = t.selectedIn(pattern, found); err != nil {
			return "", err
		}
	}
	return found, nil
}

// selectedIn returns the snapshotter that the last one of the files selects that an import
// of the main file names, or else the one given.
func (t Target) selectedIn(pattern, otherwise string) (string, error) {
	if !filepath.IsAbs(pattern) {
		pattern = filepath.Join(filepath.Dir(t.Main), pattern)
	}
	paths, err := filepath.Glob(t.path(pattern))
	if err != nil {
		return "", fmt.Errorf("looking for what %s imports: %w", t.Main, err)
	}
	for _, path := range paths {
		if path == t.path(t.DropIn) {
			continue
		}
		content, err := Target{}.load(path)
		if err != nil {
			return "", err
		}
		doc, err := tomledit.Parse(content)
		if err != nil {
			return "", fmt.Errorf("reading %s: %w", path, err)
		}
		otherwise = selected(doc, otherwise)
	}
	return otherwise, nil
}

// selected returns the snapshotter that a file selects, or else the one given.
func selected(doc *tomledit.Document, otherwise string) string {
	for _, section := range sections() {
		value, ok := doc.Get(append(slices.Clone(section), keySnapshotter)...)
		if name, isText := value.(string); ok && isText && name != "" {
			return name
		}
	}
	return otherwise
}
