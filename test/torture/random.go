package torture

import (
	"archive/tar"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
)

// Random makes an image of one to six layers that depends on the seed alone. It has
// whatever the others of this package have, and containerd accepts it: the generator
// knows what each layer holds.
func Random(seed uint64) Image {
	rng := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // the same on every run, on purpose
	lower := make(map[string]kinds)
	image := Image{Name: fmt.Sprintf("random-%d", seed)}
	for range 1 + rng.IntN(6) {
		l := &randomLayer{rng: rng, lower: lower, lowest: len(image.Layers) == 0, own: make(map[string]*object)}
		for range l.size() {
			l.step()
		}
		image.Layers = append(image.Layers, l.finish())
		for path, o := range l.own {
			lower[path] |= o.kind
		}
	}
	return image
}

// kinds is a set of what a path is in the layers below, or one of them in a layer.
type kinds uint8

const (
	isDir kinds = 1 << iota
	isLinkToDir
	isFile
	isOther // symbolic links, devices, pipes, whiteouts
	isWhiteout
)

// object is what a layer has at a path.
type object struct {
	kind kinds
	// target is the directory that a symbolic link leads to.
	target string
	// pinned objects are not replaced: containerd finds directories by their paths again.
	pinned bool
}

// randomLayer is a layer that is being made.
type randomLayer struct {
	rng    *rand.Rand
	lower  map[string]kinds
	lowest bool
	own    map[string]*object
	items  []item
	serial int
}

func (l *randomLayer) chance(percent int) bool { return l.rng.IntN(100) < percent }

// size returns how many members the layer is to have.
func (l *randomLayer) size() int {
	switch l.rng.IntN(10) {
	case 0:
		return 0
	case 1:
		return 1 + l.rng.IntN(3)
	case 2:
		return 150
	default:
		return 10 + l.rng.IntN(50)
	}
}

// finish returns the tar of the layer.
func (l *randomLayer) finish() []byte {
	if len(l.items) == 0 && l.chance(30) {
		return nil
	}
	if l.chance(15) {
		return assemble(false, l.items)
	}
	data := layer(l.items...)
	if l.chance(15) {
		data = append(data, content("what follows the end", 1+l.rng.IntN(2000))...)
	}
	return data
}

// step adds one member, and those it needs.
func (l *randomLayer) step() {
	l.serial++
	switch n := l.rng.IntN(100); {
	case n < 26:
		l.directory(l.path())
	case n < 52:
		l.file(l.path())
	case n < 60:
		l.symlink(l.path())
	case n < 70:
		l.hardLink(l.path())
	case n < 76:
		l.special(l.path())
	case n < 90:
		l.whiteout(l.known())
	case n < 97:
		l.opaque(l.known())
	case n < 99:
		l.add(member("./", tar.TypeDir, 0o711))
	default:
		l.items = append(l.items, globalHeader(strings.Repeat("comment", l.rng.IntN(100))))
	}
}

// path chooses a path: one of the layer, one of those below, or a new one.
func (l *randomLayer) path() string {
	if l.chance(40) {
		return l.known()
	}
	parent := ""
	for range l.rng.IntN(4) {
		if parent != "" {
			parent += "/"
		}
		parent += string("abcd"[l.rng.IntN(4)])
	}
	if l.chance(20) {
		if known := l.known(); l.kindBelow(known)&^isDir == 0 && !l.blocked(known) {
			parent = known
		}
	}
	return strings.TrimPrefix(parent+"/"+l.name(), "/")
}

// known chooses a path that the layer, or one below, has.
func (l *randomLayer) known() string {
	paths := make([]string, 0, len(l.lower)+len(l.own))
	for path := range l.lower {
		paths = append(paths, path)
	}
	for path := range l.own {
		paths = append(paths, path)
	}
	if len(paths) == 0 {
		return "first"
	}
	slices.Sort(paths)
	return paths[l.rng.IntN(len(paths))]
}

func (l *randomLayer) kindBelow(path string) kinds { return l.lower[path] }

// blocked reports whether nothing can lie below a path of the layer.
func (l *randomLayer) blocked(path string) bool {
	o := l.own[path]
	return o != nil && o.kind != isDir
}

// parents makes sure that the directories of a path can be made, and reports whether they
// can. Most are left to unpacking; where a layer below has something else at the path of
// one, unpacking would fail further down, and the layer has to describe the directory.
func (l *randomLayer) parents(path string) bool {
	if len(path) > 2000 {
		return false
	}
	parts := strings.Split(path, "/")
	for i := 1; i < len(parts); i++ {
		if l.blocked(strings.Join(parts[:i], "/")) {
			return false
		}
	}
	for i := 1; i < len(parts); i++ {
		parent := strings.Join(parts[:i], "/")
		below := l.kindBelow(parent)
		switch {
		case l.own[parent] != nil:
		case !l.directoriesBelow(parts[:i-1]):
			l.describe(parent)
		case below&^isDir == 0 && !l.chance(25), below&^(isDir|isLinkToDir) == 0 && i == len(parts)-1 && l.chance(60):
			l.own[parent] = &object{kind: isDir}
		default:
			l.describe(parent)
		}
	}
	return true
}

// directoriesBelow reports whether the layers below have nothing but directories on a path.
func (l *randomLayer) directoriesBelow(parts []string) bool {
	for i := range parts {
		if l.kindBelow(strings.Join(parts[:i+1], "/"))&^isDir != 0 {
			return false
		}
	}
	return true
}

// place makes room for something else than a directory at a path, and reports whether
// there is.
func (l *randomLayer) place(path string) bool {
	if o := l.own[path]; o != nil && (o.kind == isDir || o.pinned) {
		return false
	}
	return l.parents(path)
}

// add adds a member with random attributes.
func (l *randomLayer) add(it item) {
	l.items = append(l.items, l.encodable(l.attributes(it)))
}

// encodable chooses the format of a member's header, PAX where no other can hold it.
func (l *randomLayer) encodable(it item) item {
	it.header.Name = l.unclean(it.header.Name)
	if l.chance(20) {
		other := it
		other.header.Format = tar.FormatGNU
		if l.chance(50) {
			other.header.Format = tar.FormatUSTAR
		}
		if tar.NewWriter(io.Discard).WriteHeader(&other.header) == nil {
			return other
		}
	}
	return it
}

// unclean spells a path in another way.
func (l *randomLayer) unclean(path string) string {
	switch l.rng.IntN(12) {
	case 0:
		return "./" + path
	case 1:
		return "/" + path
	case 2:
		return "x/.././" + path
	case 3:
		return strings.ReplaceAll(path, "/", "//")
	default:
		return path
	}
}

func (l *randomLayer) directory(path string) {
	if o := l.own[path]; o != nil && o.pinned && o.kind != isDir || !l.parents(path) {
		return
	}
	l.describe(path)
}

// describe adds the member of a directory. containerd finds it again at the end of the
// layer, so nothing else may take its place.
func (l *randomLayer) describe(path string) {
	l.add(dir(path))
	l.own[path] = &object{kind: isDir, pinned: true}
	if l.lowest && l.chance(5) && !l.hasBelow(path) {
		l.items = append(l.items, opaque(path))
	}
}

// hasBelow reports whether the layer has something below a path.
func (l *randomLayer) hasBelow(path string) bool {
	for other := range l.own {
		if strings.HasPrefix(other, path+"/") {
			return true
		}
	}
	return false
}

func (l *randomLayer) file(path string) {
	if via, direct := l.throughSymlink(); via != "" && l.chance(30) && l.place(direct) {
		l.add(file(via, l.rng.IntN(3000)))
		l.own[direct] = &object{kind: isFile}
		return
	}
	if !l.place(path) {
		return
	}
	l.own[path] = &object{kind: isFile}
	if l.chance(12) && sparseName(path) {
		size, fragments := l.fragments()
		write := []sparseWriter{sparsePAX00, sparsePAX01, sparsePAX10}[l.rng.IntN(3)]
		l.items = append(l.items, write(path, size, fragments))
		return
	}
	l.add(file(path, l.fileSize()))
}

func (l *randomLayer) fileSize() int {
	switch l.rng.IntN(20) {
	case 0:
		return 0
	case 1:
		return l.rng.IntN(1 << 20)
	case 2, 3:
		return 512 * l.rng.IntN(20)
	case 4:
		return 262144 + l.rng.IntN(3) - 1
	default:
		return l.rng.IntN(5000)
	}
}

// throughSymlink chooses a new path below a symbolic link of the layer that leads to one
// of its directories, and where it leads.
func (l *randomLayer) throughSymlink() (via, direct string) {
	var links []string
	for path, o := range l.own {
		if o.kind == isLinkToDir {
			if target := l.own[o.target]; target != nil && target.kind == isDir && !l.belowLink(path) {
				links = append(links, path)
			}
		}
	}
	if len(links) == 0 {
		return "", ""
	}
	slices.Sort(links)
	link := links[l.rng.IntN(len(links))]
	name := fmt.Sprintf("through-%d", l.serial)
	return link + "/" + name, l.own[link].target + "/" + name
}

// belowLink reports whether a path of the layer leads through another symbolic link.
func (l *randomLayer) belowLink(path string) bool {
	for i := strings.LastIndexByte(path, '/'); i >= 0; i = strings.LastIndexByte(path, '/') {
		if path = path[:i]; l.own[path] != nil && l.own[path].kind != isDir {
			return true
		}
	}
	return false
}
