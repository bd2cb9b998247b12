// Package flat is a FUSE filesystem that shows every layer stream as one file, named
// by the stream ID in hex, or by another name if an image has it for itself. It is what EROFS mounts and loop devices read: a handful of
// inodes that never change, no directories, no handles. So the only requests that
// matter are reads of bytes the kernel has not cached.
//
// Files end at a multiple of 512 bytes, the block of the metadata: past the end of
// the layer stream come zeros, which belong to no file of the image.
//
// Node numbers come from the names, so they are the same in every process.
package flat

import (
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/fusefs"
	"github.com/brisk-project/brisk/lazyfs/stream"
)

const (
	sector = 512
	// valid is how long the kernel may keep names and attributes: they never change.
	valid = 24 * time.Hour
)

// FS is the filesystem. Create it with [New]. It is safe for concurrent use.
type FS struct {
	fuse.RawFileSystem

	reads *fusefs.Reads
	ops   *fusefs.Ops

	mu    sync.RWMutex
	files map[uint64]*file // by node number, guarded by mu
}

// file is a layer stream and how many images use it.
type file struct {
	name  block.Digest
	layer *stream.Layer
	users int
}

// New returns a filesystem without files.
func New(reads *fusefs.Reads, ops *fusefs.Ops) *FS {
	return &FS{
		RawFileSystem: fuse.NewDefaultRawFileSystem(), reads: reads, ops: ops,
		files: make(map[uint64]*file),
	}
}

// Add shows a layer in a file, once more if it is there already, and returns the name of
// the file.
func (f *FS) Add(name block.Digest, l *stream.Layer) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	node := nodeOf(name)
	if have := f.files[node]; have != nil {
		if have.name != name || have.layer.ID() != l.ID() || have.layer.Size() != l.Size() {
			return "", fmt.Errorf("layers %s (%d bytes) and %s (%d bytes) cannot be shown together",
				have.layer.ID().Short(), have.layer.Size(), l.ID().Short(), l.Size())
		}
		have.users++
		return name.Hex(), nil
	}
	f.files[node] = &file{name: name, layer: l, users: 1}
	return name.Hex(), nil
}

// Remove takes back one Add.
func (f *FS) Remove(name block.Digest) {
	f.mu.Lock()
	defer f.mu.Unlock()
	node := nodeOf(name)
	if have := f.files[node]; have != nil {
		if have.users--; have.users == 0 {
			delete(f.files, node)
		}
	}
}

// Names returns the names of the files that show a layer.
func (f *FS) Names(layer block.Digest) []string {
	f.mu.RLock()
	defer f.mu.RUnlock()
	var names []string
	for _, shown := range f.files {
		if shown.layer.ID() == layer {
			names = append(names, shown.name.Hex())
		}
	}
	return names
}

// Len returns the number of files.
func (f *FS) Len() int {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return len(f.files)
}

// String implements [fuse.RawFileSystem].
func (f *FS) String() string { return "brisk" }

// Lookup implements [fuse.RawFileSystem].
func (f *FS) Lookup(_ <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	f.ops.Count(fusefs.OpLookup)
	id, err := block.ParseDigest("sha256:" + name)
	if err != nil || header.NodeId != fuse.FUSE_ROOT_ID {
		return fuse.ENOENT
	}
	shown := f.file(nodeOf(id))
	if shown == nil || shown.name != id {
		return fuse.ENOENT
	}
	out.NodeId = nodeOf(id)
	out.SetEntryTimeout(valid)
	out.SetAttrTimeout(valid)
	shown.attr(&out.Attr)
	return fuse.OK
}

// GetAttr implements [fuse.RawFileSystem].
func (f *FS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	f.ops.Count(fusefs.OpGetAttr)
	out.SetTimeout(valid)
	if in.NodeId == fuse.FUSE_ROOT_ID {
		out.Attr = fuse.Attr{Ino: fuse.FUSE_ROOT_ID, Mode: unix.S_IFDIR | 0o500, Nlink: 2}
		return fuse.OK
	}
	shown := f.file(in.NodeId)
	if shown == nil {
		return fuse.Status(unix.ESTALE)
	}
	shown.attr(&out.Attr)
	return fuse.OK
}

// Open implements [fuse.RawFileSystem]: files need no opening.
func (f *FS) Open(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status {
	f.ops.Count(fusefs.OpOpen)
	return fuse.ENOSYS
}

// OpenDir implements [fuse.RawFileSystem]: directories need no opening.
func (f *FS) OpenDir(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status {
	f.ops.Count(fusefs.OpOpenDir)
	return fuse.ENOSYS
}

// Flush implements [fuse.RawFileSystem]: there is nothing to write back, so the kernel
// need not ask. Otherwise a program could not even close a file, or start another
// program, while no process serves the filesystem.
func (f *FS) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }

// Read implements [fuse.RawFileSystem]. It is answered in full or with an error: a
// short answer inside a file could become zeros in some kernels.
func (f *FS) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	f.ops.Count(fusefs.OpRead)
	shown := f.file(in.NodeId)
	if shown == nil {
		return nil, fuse.EIO
	}
	l := shown.layer
	off := int64(in.Offset)
	if off < 0 {
		return nil, fuse.EINVAL
	}
	buf = buf[:max(0, min(int64(len(buf)), roundUp(l.Size())-off))]
	held := max(0, min(int64(len(buf)), l.Size()-off))
	clear(buf[held:])
	if held > 0 {
		if status := f.reads.Read(cancel, in.Caller, l, buf[:held], off); !status.Ok() {
			return nil, status
		}
	}
	return fuse.ReadResultData(buf), fuse.OK
}

// StatFs implements [fuse.RawFileSystem].
func (f *FS) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	f.ops.Count(fusefs.OpStatFs)
	*out = fuse.StatfsOut{Bsize: sector, NameLen: 64}
	return fuse.OK
}

func (f *FS) file(node uint64) *file {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.files[node]
}

func (f *file) attr(out *fuse.Attr) {
	size := uint64(roundUp(f.layer.Size()))
	*out = fuse.Attr{
		Ino: nodeOf(f.name), Mode: unix.S_IFREG | 0o400, Nlink: 1,
		Size: size, Blocks: size / sector, Blksize: block.Size,
	}
}

func roundUp(size int64) int64 { return (size + sector - 1) / sector * sector }

// nodeOf returns the node number of a file. The highest bit is cleared and the next
// one set, which keeps it clear of the root and of numbers go-fuse uses.
func nodeOf(name block.Digest) uint64 {
	return binary.BigEndian.Uint64(name[:])&^(1<<63) | 1<<62
}
