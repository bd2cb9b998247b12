package torture

import (
	"archive/tar"
	"fmt"
	"slices"
	"strings"
)

func (l *randomLayer) symlink(path string) {
	if !l.place(path) {
		return
	}
	to := l.known()
	target := "/" + to
	if l.chance(50) {
		target = strings.Repeat("../", strings.Count(path, "/")) + to
	}
	o := &object{kind: isOther}
	switch n := l.rng.IntN(10); {
	case n == 0:
		target = strings.Repeat("./", l.rng.IntN(500)) + l.name()
	case l.own[to] != nil && l.own[to].kind == isDir && to != path && !strings.HasPrefix(to, path+"/"):
		o = &object{kind: isLinkToDir, target: to, pinned: true}
	}
	l.add(symlink(path, target))
	l.own[path] = o
}

func (l *randomLayer) hardLink(path string) {
	if !l.place(path) {
		return
	}
	var targets []string
	for other, o := range l.own {
		if o.kind != isDir && other != path {
			targets = append(targets, other)
		}
	}
	if len(targets) == 0 {
		return
	}
	slices.Sort(targets)
	target := targets[l.rng.IntN(len(targets))]
	o := *l.own[target]
	o.pinned = false
	if o.kind == isLinkToDir {
		o.kind = isOther // a relative target may lead elsewhere from here
	}
	l.add(link(path, l.unclean(target)))
	l.own[path] = &o
}

// special adds a device or a pipe, at times a device that an overlay takes for a whiteout.
func (l *randomLayer) special(path string) {
	if !l.place(path) {
		return
	}
	kind := isOther
	switch l.rng.IntN(5) {
	case 0:
		l.add(fifo(path))
	case 1:
		l.add(device(path, tar.TypeChar, 0, 0))
		kind = isWhiteout
	case 2:
		l.add(device(path, tar.TypeBlock, int64(l.rng.IntN(4096)), int64(l.rng.IntN(1<<20))))
	default:
		l.add(device(path, tar.TypeChar, 1+int64(l.rng.IntN(4095)), int64(l.rng.IntN(1<<20))))
	}
	l.own[path] = &object{kind: kind}
}

// whiteout hides a path of a layer below, or one that does not exist. In the lowest layer
// it removes a file.
func (l *randomLayer) whiteout(path string) {
	if l.chance(15) {
		path = l.path()
	}
	o := l.own[path]
	if l.lowest {
		if o != nil && (o.kind == isDir || o.pinned) || l.targeted(path) || !l.parents(path) {
			return
		}
		delete(l.own, path)
	} else {
		if o != nil || !l.parents(path) {
			return
		}
		l.own[path] = &object{kind: isWhiteout}
	}
	it := whiteout(path)
	it.header.Uid, it.header.Gid = l.rng.IntN(2000), l.rng.IntN(2000)
	l.items = append(l.items, it)
	// Often something else, or the same again, takes the place.
	if l.chance(40) && !l.lowest {
		switch l.rng.IntN(3) {
		case 0:
			l.directory(path)
		case 1:
			l.file(path)
		case 2:
			l.symlink(path)
		}
	}
}

// targeted reports whether a symbolic link that is used leads to a path.
func (l *randomLayer) targeted(path string) bool {
	for _, o := range l.own {
		if o.target == path {
			return true
		}
	}
	return false
}

// opaque hides what the layers below have in a directory. In the lowest layer a marker
// would remove what no member describes; there it only follows new directories.
func (l *randomLayer) opaque(path string) {
	if l.lowest {
		return
	}
	if l.chance(5) {
		l.items = append(l.items, opaque(""))
		return
	}
	if l.blocked(path) || !l.parents(path+"/x") {
		return
	}
	l.items = append(l.items, opaque(path))
	if l.chance(20) {
		l.items = append(l.items, opaque(path))
	}
}

// name chooses the name of something new.
func (l *randomLayer) name() string {
	odd := []string{
		"space in name", " leading", "trailing ", "new\nline", "quote'\"`", "back\\slash", "*?[x]", "-rf", "...", "..a", ".wh", "x.wh.y", ".whx.",
		"\x01", "\x7f", "Ünïcödé", "漢字", "e\u0301", "\u00e9", "\xff\xfe", "\xc3", "a:b", ",", "=", "lowerdir=x", strings.Repeat("n", 255), strings.Repeat("漢", 85),
	}
	switch l.rng.IntN(10) {
	case 0, 1:
		return odd[l.rng.IntN(len(odd))]
	case 2:
		name := make([]byte, 1+l.rng.IntN(60))
		for i := range name {
			if name[i] = byte(1 + l.rng.IntN(255)); name[i] == '/' {
				name[i] = '_'
			}
		}
		if strings.HasPrefix(string(name), ".") {
			name[0] = ','
		}
		return string(name)
	case 3, 4, 5:
		return string("abcdefgh"[l.rng.IntN(8)])
	default:
		return fmt.Sprintf("name-%d", l.rng.IntN(40))
	}
}

// sparseName reports whether the formats of sparse files can hold a path as it is.
func sparseName(path string) bool { return len(path) < 1000 && !strings.Contains(path, "\x00") }

// fragments chooses the size and the parts of a sparse file.
func (l *randomLayer) fragments() (size int, parts []fragment) {
	at := 0
	for range l.rng.IntN(12) {
		hole, length := l.rng.IntN(20_000), 1+l.rng.IntN(9000)
		if l.chance(70) {
			hole, length = 512*(hole/512), 512*(length/512+1)
		}
		parts = append(parts, fragment{at + hole, length})
		at += hole + length
	}
	size = at + l.rng.IntN(3)*4096
	return size, append(parts, fragment{size, 0})
}
