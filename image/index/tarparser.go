package index

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"slices"
	"strings"
	"time"
)

const (
	xattrRecord = "SCHILY.xattr."
	// The attributes that filesystems keep. Those of users exist on files and
	// directories only.
	userXattr     = "user."
	securityXattr = "security."
	aclAccess     = "system.posix_acl_access"
	aclDefault    = "system.posix_acl_default"
	// keepOwner is the owner that means "leave as it is" to chown.
	keepOwner = math.MaxUint32
	// modeMask holds the bits of a tar mode that are no type.
	modeMask = 0o7777
	// symlinkMode is what Linux shows for every symbolic link.
	symlinkMode = 0o777
)

// tarParser turns the layer stream into entries.
type tarParser struct {
	in       *stream
	out      *chunkWriter
	pending  *member // the entry whose literals are still to pass
	literals int     // bytes of literals so far
}

// run reads the tar to its end marker, or to the end of the stream, and then what
// follows. It has the semantics of unpacking: see docs/format.md.
func (p *tarParser) run() error {
	tr := tar.NewReader(p.in)
	p.in.record(0)
	for {
		hdr, err := tr.Next()
		p.finish()
		if errors.Is(err, io.EOF) {
			break
		}
		if errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) {
			err = fmt.Errorf("%w: %w", ErrUnfit, err)
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return fmt.Errorf("reading the tar header at byte %d of the layer stream: %w", p.in.headerStart, err)
		}
		if err := p.header(hdr); err != nil {
			return fmt.Errorf("tar entry %.200q at byte %d of the layer stream: %w: %w", hdr.Name, p.in.headerStart, ErrUnfit, err)
		}
	}
	p.out.flush()
	if err := p.in.drain(); err != nil {
		return fmt.Errorf("reading the layer stream after its tar: %w", err)
	}
	return nil
}

// finish hands over the entry whose data has passed.
func (p *tarParser) finish() {
	if p.pending != nil {
		p.out.add(p.pending)
		p.pending = nil
	}
}

// header takes one entry; the stream stands at the start of its data.
func (p *tarParser) header(hdr *tar.Header) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		p.in.record(alignUp(p.in.pos))
		return nil
	}
	m, err := p.member(hdr)
	if err != nil {
		return err
	}
	p.in.record(alignUp(m.dataStart + m.stored))
	if m.Path == "" && m.Type != TypeDir {
		return nil // the root stays a directory, as when unpacking
	}
	if p.out.total == MaxEntries {
		return fmt.Errorf("layer has more than %d entries", MaxEntries)
	}
	p.pending = m
	return nil
}

// member makes an entry of a header.
func (p *tarParser) member(hdr *tar.Header) (*member, error) {
	m := &member{dataStart: p.in.pos}
	if m.dataStart%tarBlock != 0 {
		return nil, fmt.Errorf("data starts at byte %d, which is not a multiple of %d", m.dataStart, tarBlock)
	}
	m.Path = cleanPath(hdr.Name)
	if !validPath([]byte(m.Path)) {
		return nil, fmt.Errorf("path has a NUL, is longer than %d bytes or has a name longer than %d", MaxPath, MaxName)
	}
	m.Mode = uint32(hdr.Mode & modeMask)
	m.UID, m.GID = owner(hdr.Uid), owner(hdr.Gid)
	m.ModTime = boundTime(hdr.ModTime)
	if err := p.setType(m, hdr); err != nil {
		return nil, err
	}
	if err := setXattrs(&m.Entry, hdr); err != nil {
		return nil, err
	}
	return m, nil
}

func (p *tarParser) setType(m *member, hdr *tar.Header) error {
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		m.Type = TypeReg
		return p.setContent(m, hdr)
	case tar.TypeDir:
		m.Type = TypeDir
	case tar.TypeSymlink:
		m.Type, m.Mode = TypeSymlink, symlinkMode
		return setLink(&m.Entry, hdr.Linkname)
	case tar.TypeLink:
		m.Type = TypeLink
		return setLink(&m.Entry, cleanPath(hdr.Linkname))
	case tar.TypeChar:
		m.Type = TypeChar
		return setDevice(&m.Entry, hdr)
	case tar.TypeBlock:
		m.Type = TypeBlock
		return setDevice(&m.Entry, hdr)
	case tar.TypeFifo:
		m.Type = TypeFifo
	default:
		return fmt.Errorf("type %q is not one that unpacking knows", hdr.Typeflag)
	}
	return nil
}

func setLink(e *Entry, target string) error {
	if len(target) > MaxPath || strings.IndexByte(target, 0) >= 0 || (e.Type == TypeLink && !validPath([]byte(target))) {
		return fmt.Errorf("link target has a NUL, is longer than %d bytes or has a name longer than %d", MaxPath, MaxName)
	}
	if target == "" && e.Type == TypeSymlink {
		return errors.New("link target is empty")
	}
	e.Link = target
	return nil
}

func setDevice(e *Entry, hdr *tar.Header) error {
	if hdr.Devmajor < 0 || hdr.Devmajor > math.MaxUint32 || hdr.Devminor < 0 || hdr.Devminor > math.MaxUint32 {
		return fmt.Errorf("device number %d:%d is out of range", hdr.Devmajor, hdr.Devminor)
	}
	e.Major, e.Minor = uint32(hdr.Devmajor), uint32(hdr.Devminor)
	return nil
}

func setXattrs(e *Entry, hdr *tar.Header) error {
	for key, value := range hdr.PAXRecords {
		name, ok := strings.CutPrefix(key, xattrRecord)
		if !ok || !settable(name, e.Type) {
			continue
		}
		if len(name) > MaxXattrName || len(value) > MaxXattrValue {
			return fmt.Errorf("extended attribute %.100q with a name of %d and a value of %d bytes, the limits are %d and %d",
				name, len(name), len(value), MaxXattrName, MaxXattrValue)
		}
		e.Xattrs = append(e.Xattrs, Xattr{Name: name, Value: value})
	}
	if len(e.Xattrs) > MaxXattrs {
		return fmt.Errorf("%d extended attributes, the limit is %d", len(e.Xattrs), MaxXattrs)
	}
	slices.SortFunc(e.Xattrs, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
	return nil
}

// settable reports whether unpacking can set an attribute on an entry of type t.
// Links take them for the file they link to. Attributes named "trusted." are never
// set: they would let a layer steer an overlay mount.
func settable(name string, t Type) bool {
	switch {
	case strings.HasPrefix(name, securityXattr):
		return true
	case strings.HasPrefix(name, userXattr):
		return t == TypeReg || t == TypeDir || t == TypeLink
	case name == aclAccess || name == aclDefault:
		return t != TypeSymlink
	default:
		return false
	}
}

// setContent places the data of a regular file.
func (p *tarParser) setContent(m *member, hdr *tar.Header) error {
	if hdr.Size > MaxFileSize {
		return fmt.Errorf("size of %d bytes, the limit is %d", hdr.Size, int64(MaxFileSize))
	}
	m.Size = hdr.Size
	if sparseKind(hdr) == "" {
		m.stored = hdr.Size
		if hdr.Size > 0 {
			m.Segments = []Segment{{StreamOffset: m.dataStart, Length: hdr.Size}}
		}
		return nil
	}
	ranges, stored, err := sparseRanges(hdr, p.in.headers)
	if err != nil {
		return err
	}
	m.stored, m.sparse = stored, true
	at := m.dataStart
	for _, r := range ranges {
		if err := p.place(m, r, at); err != nil {
			return err
		}
		at += r.length
	}
	return nil
}

// place maps the part r of a sparse file, stored from byte at of the stream on.
// A block device maps whole 512-byte blocks, so the part may become a segment
// only where blocks of the file are blocks of the stream; the rest of it goes
// into literals.
func (p *tarParser) place(m *member, r dataRange, at int64) error {
	first, end := alignUp(r.offset), (r.offset+r.length)&^(tarBlock-1)
	if r.offset+r.length == m.Size {
		end = m.Size
	}
	if (at-r.offset)%tarBlock != 0 || first >= end {
		return p.literal(m, r, at)
	}
	if n := first - r.offset; n > 0 {
		if err := p.literal(m, dataRange{r.offset, n}, at); err != nil {
			return err
		}
	}
	m.Segments = append(m.Segments, Segment{FileOffset: first, StreamOffset: at + first - r.offset, Length: end - first})
	if n := r.offset + r.length - end; n > 0 {
		return p.literal(m, dataRange{end, n}, at+end-r.offset)
	}
	return nil
}

// literal has the bytes of part r copied when the stream passes them.
func (p *tarParser) literal(m *member, r dataRange, at int64) error {
	if r.length > int64(MaxLiterals-p.literals) {
		return fmt.Errorf("sparse files whose parts are not aligned to %d bytes: more than %d bytes of them", tarBlock, MaxLiterals)
	}
	p.literals += int(r.length)
	data := make([]byte, r.length)
	m.Literals = append(m.Literals, Literal{FileOffset: r.offset, Data: data})
	p.in.taps = append(p.in.taps, tap{off: at, dst: data})
	return nil
}

// cleanPath roots a path and cleans it. ".." does not lead out of the root.
func cleanPath(name string) string { return path.Clean("/" + name)[1:] }

// owner returns what the kernel makes of a user or group number, of which it
// takes 32 bits. A file whose owner is to stay as it is belongs to the user who
// unpacks, root.
func owner(id int) uint32 {
	if n := uint32(uint64(id) & math.MaxUint32); n != keepOwner {
		return n
	}
	return 0
}

// boundTime returns the time that unpacking sets: the epoch for what does not fit
// 63 bits of nanoseconds since then.
func boundTime(t time.Time) time.Time {
	if t.Before(time.Unix(0, 0)) || t.After(time.Unix(0, math.MaxInt64)) {
		return time.Unix(0, 0).UTC()
	}
	return t.UTC()
}
