package predict

import (
	"path"
	"strings"
)

const (
	// maxLibraries is the most shared libraries of a prediction.
	maxLibraries = 2048
	// smallLibrary is the length in bytes up to which a library is read whole: the kernel reads
	// 128 KiB ahead at several places of it.
	smallLibrary = 512 << 10
	// usedLibrary and usedLibraries bound the code of larger libraries: those that are needed
	// first are read whole up to the one length, and up to the other in total. Of all others
	// a start reads hardly more than what the loader does.
	usedLibrary   = 8 << 20
	usedLibraries = 16 << 20
	// usedProgram is how much of the beginning of a program is read. What follows in large ones is
	// mostly data that few starts use.
	usedProgram = 48 << 20
	// readAhead is how much the kernel reads around a page of a program.
	readAhead = 128 << 10
	// firstRead is what is read first of a program or library: its headers.
	firstRead = 16 << 10
)

// loader finds shared libraries as the loader of one kind of program does.
type loader struct {
	*predictor

	class   byte
	machine uint16
	cache   map[string][]string // of ld.so.cache
	dirs    []string            // of LD_LIBRARY_PATH
	system  []string            // directories that are always searched
	loaded  map[string]bool
	text    int64 // what is left of usedLibraries
}

// needing is a library, or a program, whose libraries are looked for.
type needing struct {
	file  place
	elf   *elfFile
	rpath []string // of those that have loaded it
}

// execute adds a program with its loader and libraries.
func (p *predictor) execute(program place, f *elfFile) {
	p.take(program.node, p.programParts(program.node, f)...)
	if f.interpreter == "" {
		return // it is linked statically
	}
	if interpreter, ok := p.file(f.interpreter); ok {
		p.take(interpreter.node)
	} else {
		p.note("%s: the image has no %s", program.path, f.interpreter)
	}
	if p.loader == nil || p.loader.class != f.class || p.loader.machine != f.machine {
		p.loader = p.newLoader(f)
	}
	preloaded := strings.FieldsFunc(p.env["LD_PRELOAD"], func(c rune) bool { return c == ':' || c == ' ' })
	p.loader.load(needing{file: program, elf: f}, preloaded)
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if locale := p.env[name]; locale != "" {
			if strings.EqualFold(strings.ReplaceAll(locale, "-", ""), "C.utf8") {
				p.takeNamed("/usr/lib/locale/C.utf8/LC_CTYPE", "/usr/lib/gconv/gconv-modules.cache", "/usr/lib/"+triplets()[f.machine]+"/gconv/gconv-modules.cache")
			}
			break
		}
	}
}

// programParts returns what is read of a program, in order.
func (p *predictor) programParts(file *node, f *elfFile) []extent {
	if file.size <= smallLibrary {
		return nil
	}
	parts := append([]extent{{0, firstRead}}, f.written...)
	return append(parts, extent{firstRead, usedProgram - firstRead})
}

// parse returns what is known of an ELF file, nil if it is none.
func (p *predictor) parse(file place) *elfFile {
	if f, known := p.libraries[file.node]; known {
		return f
	}
	var f *elfFile
	if len(p.libraries) < maxLibraries {
		parsed, err := parseELF(fileReader{p.rootfs, file.node}, file.node.size)
		if err == nil {
			f = parsed
		} else {
			p.note("%s: %v", file.path, err)
		}
	}
	p.libraries[file.node] = f
	return f
}

// fileReader reads a file of an image.
type fileReader struct {
	root *rootfs
	file *node
}

// ReadAt implements [io.ReaderAt].
func (r fileReader) ReadAt(b []byte, off int64) (int, error) {
	if err := r.root.readAt(r.file, b, off); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (p *predictor) newLoader(f *elfFile) *loader {
	l := &loader{
		predictor: p, class: f.class, machine: f.machine, loaded: make(map[string]bool), text: usedLibraries,
		dirs: splitPath(p.env["LD_LIBRARY_PATH"]), system: defaultDirs(f),
	}
	if strings.Contains(path.Base(f.interpreter), "ld-musl-") {
		return l
	}
	if cache, ok := p.file("/etc/ld.so.cache"); ok {
		if content, err := p.content(cache.node, maxCache); err == nil {
			p.take(cache.node)
			l.cache = parseCache(content)
			return l
		}
	}
	// Without a cache the loader does not read the configuration; but one may be made at the start.
	dirs, _ := p.configured()
	l.system = append(dirs, l.system...)
	return l
}

// triplets returns the names that Debian gives directories for processors.
func triplets() map[uint16]string {
	return map[uint16]string{
		3: "i386-linux-gnu", 21: "powerpc64le-linux-gnu", 22: "s390x-linux-gnu", 40: "arm-linux-gnueabihf",
		62: "x86_64-linux-gnu", 183: "aarch64-linux-gnu", 243: "riscv64-linux-gnu", 258: "loongarch64-linux-gnu",
	}
}

// defaultDirs returns the directories in which loaders look for libraries of a class.
func defaultDirs(f *elfFile) []string {
	var dirs []string
	if triplet := triplets()[f.machine]; triplet != "" {
		dirs = append(dirs, "/lib/"+triplet, "/usr/lib/"+triplet)
	}
	if f.class == 2 {
		dirs = append(dirs, "/lib64", "/usr/lib64")
	} else {
		dirs = append(dirs, "/lib32", "/usr/lib32")
	}
	return append(dirs, "/lib", "/usr/lib", "/usr/local/lib")
}

// load adds all libraries that a program or library needs, first those it names itself.
func (l *loader) load(first needing, more []string) {
	pending := []needing{first}
	for len(pending) > 0 {
		n := pending[0]
		pending = pending[1:]
		names := append(more, n.elf.needed...)
		more = nil
		for _, name := range names {
			if l.loaded[name] || len(l.loaded) >= maxLibraries {
				continue
			}
			l.loaded[name] = true
			file, f, ok := l.find(name, &n)
			if !ok {
				l.note("%s: library %s was not found", n.file.path, name)
				continue
			}
			if f.soname != "" {
				l.loaded[f.soname] = true
			}
			l.take(file.node, l.libraryParts(file.node, f)...)
			pending = append(pending, needing{file, f, append(n.expand(n.elf.rpath), n.rpath...)})
		}
	}
}

// open adds a library that a program loads while it runs, with those that this one needs.
func (l *loader) open(file place) {
	f := l.parse(file)
	if f == nil {
		return
	}
	l.take(file.node, l.libraryParts(file.node, f)...)
	l.load(needing{file: file, elf: f}, nil)
}

// libraryParts returns what is read of a library, in order.
func (l *loader) libraryParts(file *node, f *elfFile) []extent {
	if file.size <= smallLibrary {
		return nil
	}
	if file.size <= usedLibrary && file.size <= l.text {
		l.text -= file.size
		return nil
	}
	parts := []extent{{0, firstRead}}
	for _, w := range f.written {
		end := w.offset + w.length
		if file.size-end < readAhead {
			end = file.size // the headers of sections, which come with it
		}
		parts = append(parts, extent{w.offset, end - w.offset})
	}
	return append(parts, extent{firstRead, f.linked + readAhead - firstRead})
}

// find looks for a library where the loader does.
func (l *loader) find(name string, by *needing) (place, *elfFile, bool) {
	if strings.Contains(name, "/") {
		return l.fits(by.replace(name))
	}
	var dirs []string
	if len(by.elf.runpath) == 0 {
		dirs = append(by.expand(by.elf.rpath), by.rpath...)
	}
	dirs = append(append(dirs, l.dirs...), by.expand(by.elf.runpath)...)
	if file, f, ok := l.among(dirs, name); ok {
		return file, f, true
	}
	if by.elf.noDefault {
		return place{}, nil, false
	}
	for _, candidate := range l.cache[name] {
		if file, f, ok := l.fits(candidate); ok {
			return file, f, true
		}
	}
	return l.among(l.system, name)
}

func (l *loader) among(dirs []string, name string) (place, *elfFile, bool) {
	for _, dir := range dirs {
		if file, f, ok := l.fits(path.Join("/", dir, name)); ok {
			return file, f, true
		}
	}
	return place{}, nil, false
}

// fits returns the library at a path if it is for the same processor.
func (l *loader) fits(name string) (place, *elfFile, bool) {
	file, ok := l.file(name)
	if !ok {
		return place{}, nil, false
	}
	f := l.parse(file)
	return file, f, f != nil && f.class == l.class && f.machine == l.machine
}

// expand is replace for a search path.
func (n *needing) expand(dirs []string) []string {
	expanded := make([]string, len(dirs))
	for i, dir := range dirs {
		expanded[i] = n.replace(dir)
	}
	return expanded
}

// replace replaces what stands for the directory of the file in a path.
func (n *needing) replace(name string) string {
	lib := "lib"
	if n.elf.class == 2 {
		lib = "lib64"
	}
	return strings.NewReplacer("$ORIGIN", n.file.dir(), "${ORIGIN}", n.file.dir(), "$LIB", lib, "${LIB}", lib).Replace(name)
}
