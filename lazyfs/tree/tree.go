// Package tree is a FUSE filesystem over a merged tree of layer indexes, for machines
// whose kernel has no EROFS. Node numbers are the inode numbers of the tree, which
// depend on nothing but the layers, so there is no state to keep or to forget: names
// and attributes never change and the kernel may keep them as long as it likes.
//
// A directory is listed together with the attributes of what it holds, which spares a
// lookup for each name. Opens are answered once for all with ENOSYS.
package tree

import (
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/image/erofs"
	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/fusefs"
	"github.com/brisk-project/brisk/lazyfs/stream"
)

const (
	// valid is how long the kernel may keep names and attributes: they never change.
	valid = 24 * time.Hour
	// sector is the unit of the block count of a file, in bytes.
	sector = 512
	// dots is the number of names of a directory that the tree does not list.
	dots = 2
)

// FS is the filesystem. Create it with [New]. It is safe for concurrent use.
type FS struct {
	fuse.RawFileSystem

	tree   *erofs.Tree
	layers []*stream.Layer
	reads  *fusefs.Reads
	ops    *fusefs.Ops
}

// New returns a filesystem over a tree and the streams of its layers, the bottom one
// first.
func New(t *erofs.Tree, layers []*stream.Layer, reads *fusefs.Reads, ops *fusefs.Ops) *FS {
	return &FS{RawFileSystem: fuse.NewDefaultRawFileSystem(), tree: t, layers: layers, reads: reads, ops: ops}
}

// String implements [fuse.RawFileSystem].
func (f *FS) String() string { return "brisk" }

// Lookup implements [fuse.RawFileSystem]. That a name does not exist is kept too.
func (f *FS) Lookup(_ <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	f.ops.Count(fusefs.OpLookup)
	dir, ok := f.tree.Node(header.NodeId)
	if !ok {
		return fuse.Status(unix.ESTALE)
	}
	out.SetEntryTimeout(valid)
	if n, ok := dir.Lookup(name); ok {
		fillEntry(out, n)
	}
	return fuse.OK
}

// GetAttr implements [fuse.RawFileSystem].
func (f *FS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	f.ops.Count(fusefs.OpGetAttr)
	n, ok := f.tree.Node(in.NodeId)
	if !ok {
		return fuse.Status(unix.ESTALE)
	}
	out.SetTimeout(valid)
	fillAttr(&out.Attr, n)
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

// ReadDir implements [fuse.RawFileSystem].
func (f *FS) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return f.list(in, func(e fuse.DirEntry, _ *erofs.Node) bool { return out.AddDirEntry(e) })
}

// ReadDirPlus implements [fuse.RawFileSystem].
func (f *FS) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return f.list(in, func(e fuse.DirEntry, n *erofs.Node) bool {
		entry := out.AddDirLookupEntry(e)
		if entry == nil {
			return false
		}
		if e.Off > dots { // the kernel knows "." and ".." itself
			entry.SetEntryTimeout(valid)
			fillEntry(entry, n)
		}
		return true
	})
}

// list adds the names of a directory from the offset of the request on, until add
// says that there is no more room. The n-th name has offset n+1.
func (f *FS) list(in *fuse.ReadIn, add func(fuse.DirEntry, *erofs.Node) bool) fuse.Status {
	f.ops.Count(fusefs.OpReadDir)
	dir, ok := f.tree.Node(in.NodeId)
	if !ok || !dir.IsDir() {
		return fuse.Status(unix.ENOTDIR)
	}
	children := dir.Children()
	for i := in.Offset; i < dots+uint64(len(children)); i++ {
		name, n := ".", dir
		switch {
		case i == 1:
			name, n = "..", dir.Parent()
		case i >= dots:
			name, n = children[i-dots].Name, children[i-dots].Node
		}
		if !add(fuse.DirEntry{Name: name, Ino: n.Ino, Mode: typeBits(n.Type), Off: i + 1}, n) {
			break
		}
	}
	return fuse.OK
}

// Readlink implements [fuse.RawFileSystem].
func (f *FS) Readlink(_ <-chan struct{}, header *fuse.InHeader) ([]byte, fuse.Status) {
	f.ops.Count(fusefs.OpReadlink)
	n, ok := f.tree.Node(header.NodeId)
	if !ok || n.Type != index.TypeSymlink {
		return nil, fuse.EINVAL
	}
	return []byte(n.Target), fuse.OK
}

// GetXAttr implements [fuse.RawFileSystem].
func (f *FS) GetXAttr(_ <-chan struct{}, header *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	f.ops.Count(fusefs.OpXAttr)
	n, ok := f.tree.Node(header.NodeId)
	if !ok {
		return 0, fuse.Status(unix.ESTALE)
	}
	for _, x := range n.Xattrs {
		if x.Name == name {
			return answer(dest, x.Value)
		}
	}
	return 0, fuse.ENODATA
}

// ListXAttr implements [fuse.RawFileSystem].
func (f *FS) ListXAttr(_ <-chan struct{}, header *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	f.ops.Count(fusefs.OpXAttr)
	n, ok := f.tree.Node(header.NodeId)
	if !ok {
		return 0, fuse.Status(unix.ESTALE)
	}
	var names []byte
	for _, x := range n.Xattrs {
		names = append(append(names, x.Name...), 0)
	}
	return answer(dest, string(names))
}

// answer copies an answer to dest, or says how long it is.
func answer(dest []byte, value string) (uint32, fuse.Status) {
	if len(dest) < len(value) {
		return uint32(len(value)), fuse.ERANGE
	}
	return uint32(copy(dest, value)), fuse.OK
}

// Read implements [fuse.RawFileSystem]. It is answered in full or with an error.
func (f *FS) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	f.ops.Count(fusefs.OpRead)
	n, ok := f.tree.Node(in.NodeId)
	if !ok || n.Type != index.TypeReg {
		return nil, fuse.EIO
	}
	off := int64(in.Offset)
	if off < 0 {
		return nil, fuse.EINVAL
	}
	buf = buf[:max(0, min(int64(len(buf)), n.Size-off))]
	clear(buf) // what follows leaves out the holes
	for _, l := range n.Literals {
		if part, skip := cut(buf, off, l.FileOffset, int64(len(l.Data))); len(part) > 0 {
			copy(part, l.Data[skip:])
		}
	}
	for _, s := range n.Segments {
		part, skip := cut(buf, off, s.FileOffset, s.Length)
		if len(part) == 0 {
			continue
		}
		if n.Layer < 0 || n.Layer >= len(f.layers) {
			return nil, fuse.EIO
		}
		if status := f.reads.Read(cancel, in.Caller, f.layers[n.Layer], part, s.StreamOffset+skip); !status.Ok() {
			return nil, status
		}
	}
	return fuse.ReadResultData(buf), fuse.OK
}

// cut returns the part of buf, which begins at off of a file, that lies in the n bytes
// from start on, and where in those it begins.
func cut(buf []byte, off, start, n int64) (part []byte, skip int64) {
	from, to := max(off, start), min(off+int64(len(buf)), start+n)
	if from >= to {
		return nil, 0
	}
	return buf[from-off : to-off], from - start
}

// StatFs implements [fuse.RawFileSystem].
func (f *FS) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	f.ops.Count(fusefs.OpStatFs)
	var blocks uint64
	for _, l := range f.layers {
		blocks += uint64(l.Size()+sector-1) / sector
	}
	*out = fuse.StatfsOut{Blocks: blocks, Files: uint64(f.tree.Len()), Bsize: sector, Frsize: sector, NameLen: 255}
	return fuse.OK
}

func fillEntry(out *fuse.EntryOut, n *erofs.Node) {
	out.NodeId = n.Ino
	out.SetAttrTimeout(valid)
	fillAttr(&out.Attr, n)
}

func fillAttr(out *fuse.Attr, n *erofs.Node) {
	*out = fuse.Attr{
		Ino: n.Ino, Mode: typeBits(n.Type) | n.Mode, Nlink: n.Nlink, Owner: fuse.Owner{Uid: n.UID, Gid: n.GID},
		Size: uint64(n.Size), Blocks: uint64(n.Size+sector-1) / sector, Blksize: block.Size,
		Rdev: n.Minor&0xff | n.Major<<8 | n.Minor&^0xff<<12, // as the kernel packs device numbers
	}
	seconds, nanoseconds := uint64(n.ModTime.Unix()), uint32(n.ModTime.Nanosecond())
	out.Mtime, out.Mtimensec = seconds, nanoseconds
	out.Ctime, out.Ctimensec = seconds, nanoseconds
	out.Atime, out.Atimensec = seconds, nanoseconds
}

func typeBits(t index.Type) uint32 {
	switch t {
	case index.TypeDir:
		return syscall.S_IFDIR
	case index.TypeSymlink:
		return syscall.S_IFLNK
	case index.TypeChar:
		return syscall.S_IFCHR
	case index.TypeBlock:
		return syscall.S_IFBLK
	case index.TypeFifo:
		return syscall.S_IFIFO
	default:
		return syscall.S_IFREG
	}
}
