package lazyfs

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/fusefs"
	"github.com/brisk-project/brisk/lazyfs/stream"
)

const (
	// recordVersion is the version of the records of mounts and connections.
	recordVersion = 1
	// firstMerge is the version of the merge that records without one are of.
	firstMerge = 0
	// maxRecord is the size of the largest record, in bytes: a few thousand layers.
	maxRecord = 1 << 20
	// MaxCallerData is the size of the largest note of a mount, in bytes.
	MaxCallerData = 256 << 10

	mountSuffix   = ".mount.json"
	sessionSuffix = ".session.json"
)

// errRecord says that a record is not understood.
var errRecord = errors.New("record is damaged or of another version")

// envelope is what every record begins with.
type envelope struct {
	Version int    `json:"version"`
	Boot    string `json:"boot"` // identifies the time since the machine was started
}

// mountRecord is what another process has to know to go on with a mount.
type mountRecord struct {
	envelope

	Name       string            `json:"name"`
	ID         block.Digest      `json:"id"`
	Backend    Backend           `json:"backend"`
	Target     string            `json:"target"`
	Root       string            `json:"root"` // where the root is mounted; not Target if there is an overlay
	Session    string            `json:"session,omitempty"`
	Merge      int               `json:"merge,omitempty"` // the version of the merge that the root is of
	Layers     []layerRecord     `json:"layers"`
	NoFill     bool              `json:"noFill,omitempty"`
	Fill       stream.FillConfig `json:"fill"`
	CallerData json.RawMessage   `json:"note,omitempty"`
	PagesID    block.Digest      `json:"pages,omitzero"`
}

// layerRecord is one layer of a mount.
type layerRecord struct {
	Stream block.Digest `json:"stream"`
	Size   int64        `json:"size"`
	Plain  string       `json:"plain,omitempty"` // the file of the cache, if the kernel reads that
}

// sessionRecord is what another process has to know to serve a FUSE connection.
type sessionRecord struct {
	envelope

	Dir      string          `json:"dir"`
	Device   string          `json:"device"` // number of the mounted device, which is not used again while it lives
	Settings fusefs.Settings `json:"settings"`
}

// overlaid reports whether there is an overlay on top of the root.
func (r *mountRecord) overlaid() bool { return r.Root != r.Target }

// direct reports whether the mount depends on no process.
func (r *mountRecord) direct() bool {
	for _, l := range r.Layers {
		if l.Plain == "" {
			return false
		}
	}
	return r.Backend != Tree
}

func (r *mountRecord) check() error {
	switch {
	case !filepath.IsAbs(r.Target) || !filepath.IsAbs(r.Root):
		return fmt.Errorf("%w: target %q or root %q is no absolute path", errRecord, r.Target, r.Root)
	case r.Backend != Erofs && r.Backend != Loop && r.Backend != Tree:
		return fmt.Errorf("%w: backend %q", errRecord, r.Backend)
	case r.ID.IsZero():
		return fmt.Errorf("%w: there is no image ID", errRecord)
	case !r.direct() && r.Session == "":
		return fmt.Errorf("%w: there is no session", errRecord)
	}
	for _, l := range r.Layers {
		if l.Size < 0 || l.Stream.IsZero() {
			return fmt.Errorf("%w: layer %s of %d bytes", errRecord, l.Stream.Short(), l.Size)
		}
	}
	return nil
}

func (r *sessionRecord) check() error {
	if !filepath.IsAbs(r.Dir) || r.Device == "" {
		return fmt.Errorf("%w: directory %q, device %q", errRecord, r.Dir, r.Device)
	}
	return nil
}

// records is the directory of records.
type records struct {
	dir  string
	boot string // set by [FS.Run]
}

func (r *records) envelope() envelope { return envelope{Version: recordVersion, Boot: r.boot} }

// save writes a record so that it is there in full or not at all.
func (r *records) save(name string, record any) error {
	encoded, err := json.Marshal(record)
	if err == nil && len(encoded) > maxRecord {
		err = fmt.Errorf("it has %d bytes, more than %d", len(encoded), maxRecord)
	}
	if err != nil {
		return fmt.Errorf("recording a mount: %w", err)
	}
	path := filepath.Join(r.dir, name)
	f, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("recording a mount: %w", err)
	}
	_, err = f.Write(encoded)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(path+".tmp", path)
	}
	if err != nil {
		return fmt.Errorf("recording a mount: %w", errors.Join(err, r.remove(name+".tmp")))
	}
	return nil
}

// remove removes a record if there is one.
func (r *records) remove(name string) error {
	if err := os.Remove(filepath.Join(r.dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing the record of a mount: %w", err)
	}
	return nil
}

// list returns the names of all files in the directory.
func (r *records) list() ([]string, error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, fmt.Errorf("looking for records of mounts: %w", err)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// read returns the content of a record.
func (r *records) read(name string) ([]byte, error) {
	f, err := os.Open(filepath.Join(r.dir, name))
	if err != nil {
		return nil, fmt.Errorf("reading the record of a mount: %w", err)
	}
	defer f.Close() //nolint:errcheck // read only
	content, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err == nil && len(content) > maxRecord {
		err = fmt.Errorf("%w: it has more than %d bytes", errRecord, maxRecord)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the record of a mount: %w", err)
	}
	return content, nil
}

// parseRecord decodes a record of either kind and checks it.
func parseRecord(content []byte, into interface{ check() error }) error {
	var head envelope
	if err := json.Unmarshal(content, &head); err != nil {
		return fmt.Errorf("%w: %w", errRecord, err)
	}
	if head.Version != recordVersion {
		return fmt.Errorf("%w: version %d, not %d", errRecord, head.Version, recordVersion)
	}
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return fmt.Errorf("%w: %w", errRecord, err)
	}
	return into.check()
}

// uniqueName returns a name that no process has given before.
func uniqueName(prefix string) string {
	var id [8]byte
	_, _ = rand.Read(id[:]) // which never fails
	return prefix + hex.EncodeToString(id[:])
}

func isMountRecord(name string) bool { return strings.HasSuffix(name, mountSuffix) }

// sessionOf returns the name of the session that a file records.
func sessionOf(name string) (string, bool) { return strings.CutSuffix(name, sessionSuffix) }
