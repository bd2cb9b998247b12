package layout

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/brisk-project/brisk/internal/block"
)

const (
	// maxMembers is the most members of an archive.
	maxMembers = 1 << 16
	// archiveMode is that of a new archive.
	archiveMode = 0o644
)

// section is where a file lies in an archive.
type section struct{ off, size int64 }

// archive is a store in a tar. What is written to it is in a directory beside the tar until it
// is finished, and the tar stays as it was until then.
type archive struct {
	path    string
	file    *os.File // nil if there is none yet
	members map[string]section
	written *directory // nil if it is only read
	indexed []byte     // the new index.json, nil if it has not changed
}

func openArchive(name string, write bool) (*archive, error) {
	a := &archive{path: name, members: map[string]section{}}
	file, err := os.Open(name)
	switch {
	case errors.Is(err, fs.ErrNotExist) && write:
	case err != nil:
		return nil, err
	default:
		a.file = file
		if err := a.readMembers(); err != nil {
			return nil, errors.Join(err, file.Close())
		}
	}
	if !write {
		return a, nil
	}
	dir, err := os.MkdirTemp(filepath.Dir(name), "."+filepath.Base(name)+"-")
	if err != nil {
		return nil, errors.Join(err, a.discard())
	}
	if a.written, err = openDirectory(dir, true); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir), a.discard())
	}
	return a, nil
}

// readMembers finds the files of the archive.
func (a *archive) readMembers() (err error) {
	if a.members, err = membersOf(a.file); err != nil {
		return fmt.Errorf("reading the archive: %w", err)
	}
	if _, ok := a.members[layoutFile]; !ok {
		return fmt.Errorf("%w: it has no %s", errNoLayout, layoutFile)
	}
	return nil
}

// membersOf returns where the files of a tar are.
func membersOf(file *os.File) (map[string]section, error) {
	head := make([]byte, 4)
	if _, err := file.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if bytes.HasPrefix(head, []byte{0x1f, 0x8b}) || bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}) {
		return nil, errors.New("the archive is compressed; decompress it first")
	}
	members := map[string]section{}
	for tr := tar.NewReader(file); ; {
		header, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return members, nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return nil, err
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		if len(members) == maxMembers {
			return nil, fmt.Errorf("the archive has more than %d files", maxMembers)
		}
		off, err := file.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		members[strings.TrimPrefix(path.Clean("/"+header.Name), "/")] = section{off, header.Size}
	}
}

func (a *archive) index() ([]byte, error) {
	if a.indexed != nil {
		return a.indexed, nil
	}
	s, ok := a.members[indexFile]
	if !ok {
		return nil, nil
	}
	if s.size > maxManifest {
		return nil, fmt.Errorf("index.json of %d bytes, the limit is %d", s.size, maxManifest)
	}
	content := make([]byte, s.size)
	if _, err := a.file.ReadAt(content, s.off); err != nil {
		return nil, fmt.Errorf("reading index.json: %w", err)
	}
	return content, nil
}

func (a *archive) setIndex(content []byte) error {
	a.indexed = slices.Clone(content)
	return nil
}

func (a *archive) open(digest block.Digest) (blob, error) {
	if s, ok := a.members[blobsDir+"/"+digest.Hex()]; ok {
		return sectionBlob{io.NewSectionReader(a.file, s.off, s.size)}, nil
	}
	if a.written == nil {
		return nil, fmt.Errorf("blob %s: %w", digest, block.ErrNotFound)
	}
	return a.written.open(digest)
}

// sectionBlob is a blob that is a part of a file.
type sectionBlob struct{ *io.SectionReader }

// Close implements [io.Closer]. The file stays open.
func (sectionBlob) Close() error { return nil }

func (a *archive) create() (*upload, error) { return a.written.create() }

func (a *archive) commit(u *upload, digest block.Digest) error { return a.written.commit(u, digest) }

// finish writes the archive if it has changed.
func (a *archive) finish(ctx context.Context) error {
	if a.indexed == nil {
		return a.discard()
	}
	out, err := os.CreateTemp(filepath.Dir(a.path), "."+filepath.Base(a.path)+"-")
	if err != nil {
		return errors.Join(err, a.discard())
	}
	err = a.writeTo(ctx, out)
	err = errors.Join(err, out.Chmod(archiveMode), out.Sync(), out.Close())
	if err == nil {
		err = os.Rename(out.Name(), a.path)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(out.Name()))
	}
	return errors.Join(err, a.discard())
}

// writeTo writes all that the archive has, and what was added, in the order of the names.
func (a *archive) writeTo(ctx context.Context, out io.Writer) error {
	tw := tar.NewWriter(out)
	names := []string{layoutFile, indexFile}
	for name := range a.members {
		if strings.HasPrefix(name, blobsDir+"/") {
			names = append(names, name)
		}
	}
	added, err := os.ReadDir(filepath.Join(a.written.path, blobsDir))
	if err != nil {
		return err
	}
	for _, entry := range added {
		if name := blobsDir + "/" + entry.Name(); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names[2:])
	for _, name := range names {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := a.writeMember(tw, name); err != nil {
			return fmt.Errorf("writing %s: %w", name, err)
		}
	}
	return tw.Close()
}

func (a *archive) writeMember(tw *tar.Writer, name string) error {
	var content io.ReadCloser
	var size int64
	switch s, kept := a.members[name]; {
	case name == layoutFile:
		content, size = io.NopCloser(strings.NewReader(layoutContent)), int64(len(layoutContent))
	case name == indexFile:
		content, size = io.NopCloser(bytes.NewReader(a.indexed)), int64(len(a.indexed))
	case kept:
		content, size = io.NopCloser(io.NewSectionReader(a.file, s.off, s.size)), s.size
	default:
		f, err := os.Open(filepath.Join(a.written.path, name))
		if err != nil {
			return err
		}
		info, err := f.Stat()
		if err != nil {
			return errors.Join(err, f.Close())
		}
		content, size = f, info.Size()
	}
	err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: archiveMode, Size: size})
	if err == nil {
		_, err = io.Copy(tw, content)
	}
	return errors.Join(err, content.Close())
}

// discard leaves the archive as it was.
func (a *archive) discard() error {
	var errs []error
	if a.file != nil {
		errs = append(errs, a.file.Close())
	}
	if a.written != nil {
		errs = append(errs, os.RemoveAll(a.written.path))
	}
	return errors.Join(errs...)
}
