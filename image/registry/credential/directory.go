package credential

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// maxFiles is the most files of a directory that are read: more Secrets than a node
// is given.
const maxFiles = 1024

// Directory is a source of the Docker configuration files in a directory.
type Directory struct {
	dir string
	log *slog.Logger

	mu    sync.Mutex
	files map[string]configFile
}

// configFile is what was last read of a file.
type configFile struct {
	info fs.FileInfo
	keys keyring
}

// NewDirectory returns a source of the Docker configurations in the files of dir
// and of its subdirectories, such as Secrets of the type dockerconfigjson make them
// when they are mounted. Files may come, change and go at any time: they are looked
// at whenever a credential is wanted, and read when they have changed. A file that
// cannot be read is logged and left out. log may be nil.
func NewDirectory(dir string, log *slog.Logger) *Directory {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Directory{dir: dir, log: log, files: make(map[string]configFile)}
}

// Name implements [Source].
func (*Directory) Name() string { return "directory" }

// Lookup implements [Source].
func (d *Directory) Lookup(_ context.Context, q Query) ([]Answer, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	paths, err := d.list()
	if err != nil {
		return nil, err
	}
	current := make(map[string]configFile, len(paths))
	var answers []Answer
	for _, path := range paths {
		file, ok := d.read(path)
		if !ok {
			continue
		}
		current[path] = file
		for _, secret := range file.keys.find(q.Image) {
			answers = append(answers, Answer{Secret: secret, Ephemeral: true})
		}
	}
	d.files = current
	return answers, nil
}

// list returns the files, those of subdirectories last.
func (d *Directory) list() ([]string, error) {
	files, below, err := listOne(d.dir)
	if err != nil {
		return nil, err
	}
	for _, dir := range below {
		more, _, err := listOne(dir)
		if err != nil {
			return nil, err
		}
		if files = append(files, more...); len(files) > maxFiles {
			return nil, fmt.Errorf("more than %d credential files in %s", maxFiles, d.dir)
		}
	}
	return files, nil
}

// listOne returns the files and directories in a directory. Kubernetes keeps the
// content of a mounted Secret in directories whose names begin with two dots, and
// exchanges a link to them: the names to use lead there.
func listOne(dir string) (files, below []string, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("listing credential files: %w", err)
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), "..") {
			continue
		}
		path := filepath.Join(dir, entry.Name())
		info, err := os.Stat(path)
		switch {
		case err != nil: // gone meanwhile, or a link to nowhere
		case info.IsDir():
			below = append(below, path)
		case info.Mode().IsRegular():
			files = append(files, path)
		}
	}
	if len(files) > maxFiles || len(below) > maxFiles {
		return nil, nil, fmt.Errorf("more than %d credential files in %s", maxFiles, dir)
	}
	return files, below, nil
}

// read returns what is in a file, from memory if it has not changed. A file that
// is not usable is logged once.
func (d *Directory) read(path string) (configFile, bool) {
	info, err := os.Stat(path)
	if err != nil {
		return configFile{}, false
	}
	if before, ok := d.files[path]; ok && same(before.info, info) {
		return before, true
	}
	file := configFile{info: info}
	data, err := readFile(path, maxDockerConfig)
	unusable := 0
	if err == nil {
		file.keys, unusable, err = parseDockerConfig(data)
	}
	switch {
	case err != nil:
		d.log.Warn("ignoring a file of credentials", "path", path, "error", err)
	case unusable > 0:
		d.log.Warn("ignoring entries of a file of credentials", "path", path, "entries", unusable)
	}
	// An error of the disk may be over at the next look; the content stays as it is.
	return file, err == nil || data != nil
}

// settled is for how long a file may still be written without its time changing.
const settled = 2 * time.Second

// same reports whether a file is as it was.
func same(before, now fs.FileInfo) bool {
	return os.SameFile(before, now) && before.ModTime().Equal(now.ModTime()) && before.Size() == now.Size() &&
		time.Since(now.ModTime()) > settled
}

// readFile reads a file of at most limit bytes. What it returns is not nil if all
// of the file was read.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("file longer than %d bytes", limit)
	}
	return data, nil
}
