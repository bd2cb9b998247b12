package predict

import (
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/brisk-project/brisk/image/index"
)

const (
	// maxSearchPath is the most directories in which modules are looked for.
	maxSearchPath = 64
	// maxPathFile is the longest .pth file in bytes that is read.
	maxPathFile = 64 << 10
)

// python adds what Python loads with these arguments. name is how the program was called.
func (p *predictor) python(name string, program place, args []string) {
	py := &pythonLanguage{predictor: p, modules: make(map[*node]*module)}
	if !py.findInstallation(name, program) {
		p.note("%s: no standard library was found", program.path)
		return
	}
	args = py.options(args)
	entries := py.startUp()
	switch {
	case len(args) > 1 && args[0] == "-m":
		py.search = slices.Insert(py.search, 0, p.absolute("."))
		entries = append(entries, py.named("runpy")...)
		entries = append(entries, py.main(args[1])...)
		args = args[2:]
	case len(args) > 1 && args[0] == "-c":
		py.search = slices.Insert(py.search, 0, p.absolute("."))
		for _, i := range scanPython([]byte(args[1])) {
			entries = append(entries, py.imported(i, nil)...)
		}
		args = nil
	case len(args) > 0 && !strings.HasPrefix(args[0], "-"):
		if script, ok := p.resolve(p.absolute(args[0])); ok {
			entries = append(entries, py.script(script)...)
		}
		args = args[1:]
	}
	entries = append(entries, py.applications(args)...)
	p.load(entries, py)
}

// pythonLanguage finds modules as Python does.
type pythonLanguage struct {
	*predictor

	version string   // such as 3.11
	search  []string // directories
	modules map[*node]*module
}

// options returns the arguments after those that say nothing of modules.
func (py *pythonLanguage) options(args []string) []string {
	for len(args) > 0 && strings.HasPrefix(args[0], "-") && args[0] != "-m" && args[0] != "-c" {
		skipped := 1
		if args[0] == "-W" || args[0] == "-X" {
			skipped = 2
		}
		args = args[min(skipped, len(args)):]
	}
	return args
}

// findInstallation finds the version and the directories of a Python.
func (py *pythonLanguage) findInstallation(name string, program place) bool {
	prefix := path.Dir(program.dir())
	py.version = strings.TrimPrefix(path.Base(program.path), "python")
	if !strings.Contains(py.version, ".") {
		lib, ok := py.resolve(path.Join(prefix, "lib"))
		if !ok {
			return false
		}
		for _, c := range lib.node.children() {
			if version, ok := strings.CutPrefix(c.name, "python3."); ok && c.node.isDir() {
				py.version = "3." + version
			}
		}
	}
	standard := path.Join(prefix, "lib/python"+py.version)
	if _, ok := py.file(path.Join(standard, "os.py")); !ok {
		if _, ok := py.file(path.Join(standard, "os.pyc")); !ok {
			return false
		}
	}
	for _, dir := range splitPath(py.env["PYTHONPATH"]) {
		py.search = append(py.search, py.absolute(dir))
	}
	py.search = append(py.search, standard, standard+"/lib-dynload")
	sites := []string{standard + "/site-packages", "/usr/local/lib/python" + py.version + "/dist-packages", "/usr/lib/python3/dist-packages"}
	if environment, ok := py.virtual(name); ok {
		sites = []string{path.Join(environment, "lib/python"+py.version, "site-packages")}
	}
	for _, site := range sites {
		py.addSite(site)
	}
	py.search = py.search[:min(len(py.search), maxSearchPath)]
	return true
}

// virtual returns the directory of the virtual environment of a Python.
func (py *pythonLanguage) virtual(name string) (string, bool) {
	if !strings.Contains(name, "/") {
		found, ok := py.lookName(name)
		if !ok {
			return "", false
		}
		name = found
	}
	environment := path.Dir(path.Dir(py.absolute(name)))
	file, ok := py.file(path.Join(environment, "pyvenv.cfg"))
	if ok {
		py.take(file.node)
	}
	return environment, ok
}

// lookName returns the path by which a program is found on the PATH, links not followed.
func (py *pythonLanguage) lookName(name string) (string, bool) {
	for _, dir := range splitPath(py.searchPath()) {
		if _, ok := py.file(path.Join(py.absolute(dir), name)); ok {
			return path.Join(py.absolute(dir), name), true
		}
	}
	return "", false
}

// addSite adds a directory of packages, with what its .pth files add.
func (py *pythonLanguage) addSite(dir string) {
	found, ok := py.resolve(dir)
	if !ok || !found.node.isDir() {
		return
	}
	py.search = append(py.search, dir)
	for _, c := range found.node.children() {
		if !strings.HasSuffix(c.name, ".pth") || c.node.kind != index.TypeReg || c.node.size > maxPathFile {
			continue
		}
		content, err := py.content(c.node, maxPathFile)
		if err != nil {
			continue
		}
		py.take(c.node)
		for line := range strings.Lines(string(content)) {
			line = strings.TrimSpace(line)
			if line != "" && !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "import") && len(py.search) < maxSearchPath {
				if !path.IsAbs(line) {
					line = path.Join(dir, line)
				}
				py.search = append(py.search, line)
			}
		}
	}
}

// startUp returns the modules that every Python loads. From 3.11 on most are in the program.
func (py *pythonLanguage) startUp() []*module {
	names := []string{"encodings", "encodings.aliases", "encodings.utf_8"}
	if !py.frozen("os") {
		names = append(names, "codecs", "io", "abc", "site", "os", "stat", "_collections_abc", "posixpath", "genericpath", "_sitebuiltins")
	}
	var found []*module
	for _, name := range append(names, "sitecustomize", "usercustomize") {
		found = append(found, py.named(name)...)
	}
	return found
}

// frozen reports whether a module is in the program.
func (py *pythonLanguage) frozen(name string) bool {
	_, minor, _ := strings.Cut(py.version, ".")
	if len(minor) < 2 || len(minor) == 2 && minor < "11" {
		return false
	}
	return slices.Contains([]string{
		"abc", "codecs", "io", "_collections_abc", "_sitebuiltins", "genericpath", "ntpath", "posixpath", "os", "site", "stat", "importlib.util",
		"importlib.machinery", "runpy", "__phello__", "zipimport", "importlib._bootstrap", "importlib._bootstrap_external",
	}, name)
}

// script returns the modules of a program: a source, or a directory with a __main__.
func (py *pythonLanguage) script(script place) []*module {
	if script.node.isDir() {
		py.search = slices.Insert(py.search, 0, script.path)
		return py.named("__main__")
	}
	py.search = slices.Insert(py.search, 0, script.dir())
	return []*module{py.module(script)}
}

// main returns the modules of "-m name".
func (py *pythonLanguage) main(name string) []*module {
	if found := py.named(name + ".__main__"); len(found) > 0 && strings.HasSuffix(found[len(found)-1].source.path, "/__main__.py") {
		return found
	}
	return py.named(name)
}

// applications returns the modules that arguments name as servers of applications are told of them,
// such as app.main:app.
func (py *pythonLanguage) applications(args []string) []*module {
	form := regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_.]*)(:[A-Za-z_][A-Za-z0-9_.]*(\(\))?)?$`)
	var found []*module
	for _, arg := range args {
		match := form.FindStringSubmatch(arg)
		if match == nil {
			continue
		}
		own := &pythonLanguage{predictor: py.predictor, version: py.version, search: []string{py.absolute(".")}, modules: py.modules}
		if modules := own.named(match[1]); len(modules) > 0 {
			py.search = append(py.search, py.absolute("."))
			found = append(found, modules...)
		}
	}
	return found
}

// loads implements language.
func (py *pythonLanguage) loads(m *module, content []byte) []*module {
	var loaded []*module
	for _, i := range scanPython(content) {
		loaded = append(loaded, py.imported(i, m)...)
	}
	return loaded
}

// imported returns the modules that an import in a source loads.
func (py *pythonLanguage) imported(i pythonImport, by *module) []*module {
	if i.level == 0 {
		found, dir := py.find(py.search, i.module)
		return append(found, py.members(dir, i.names)...)
	}
	if by == nil {
		return nil
	}
	dir := by.source.dir()
	for range i.level - 1 {
		dir = path.Dir(dir)
	}
	if i.module == "" {
		return py.members(dir, i.names)
	}
	found, below := py.find([]string{dir}, i.module)
	return append(found, py.members(below, i.names)...)
}

// members returns the names of an import that are modules of a package.
func (py *pythonLanguage) members(dir string, names []string) []*module {
	if dir == "" {
		return nil
	}
	var found []*module
	for _, name := range names {
		one, _ := py.find([]string{dir}, name)
		found = append(found, one...)
	}
	return found
}

// named returns the modules that the import of a name loads: the packages it is in, and itself.
func (py *pythonLanguage) named(name string) []*module {
	found, _ := py.find(py.search, name)
	return found
}

// find is named for a list of directories. It also returns the directory of the package, if the last
// one is a package.
func (py *pythonLanguage) find(dirs []string, name string) (found []*module, dir string) {
	if py.frozen(name) {
		return nil, ""
	}
	for component := range strings.SplitSeq(name, ".") {
		if component == "" {
			return found, ""
		}
		m, below := py.component(dirs, component)
		if m == nil && below == "" {
			return found, ""
		}
		if m != nil {
			found = append(found, m)
		}
		if dir = below; dir == "" {
			return found, ""
		}
		dirs = []string{dir}
	}
	return found, dir
}

// component returns the module of one name, and its directory if it is a package.
func (py *pythonLanguage) component(dirs []string, name string) (*module, string) {
	for _, dir := range dirs {
		at, ok := py.resolve(dir)
		if !ok {
			continue
		}
		below, isDir := py.resolve(path.Join(at.path, name))
		isDir = isDir && below.node.isDir()
		if isDir {
			if initial, ok := py.file(path.Join(below.path, "__init__.py")); ok {
				return py.module(initial), below.path
			}
		}
		if extension := py.extension(at, name); extension != nil {
			return extension, ""
		}
		if source, ok := py.file(path.Join(at.path, name+".py")); ok {
			return py.module(source), ""
		}
		if isDir {
			return nil, below.path // a package without a source
		}
	}
	return nil, ""
}

// extension returns the module that is a shared library in a directory.
func (py *pythonLanguage) extension(dir place, name string) *module {
	abi := "cpython-" + strings.ReplaceAll(py.version, ".", "")
	children := dir.node.children()
	first, _ := slices.BinarySearchFunc(children, name+".", func(c child, name string) int { return strings.Compare(c.name, name) })
	for _, c := range children[first:] {
		suffix, ok := strings.CutPrefix(c.name, name+".")
		if !ok {
			return nil
		}
		if strings.HasPrefix(suffix, abi+"-") && strings.HasSuffix(suffix, ".so") || suffix == "abi3.so" || suffix == "so" {
			if file, ok := py.file(path.Join(dir.path, c.name)); ok {
				m := py.module(file)
				m.native = true
				return m
			}
		}
	}
	return nil
}

// module returns the module of a file. What is read of it is what Python has compiled, if the image
// has that.
func (py *pythonLanguage) module(source place) *module {
	if m := py.modules[source.node]; m != nil {
		return m
	}
	m := &module{source: source}
	compiled := strings.TrimSuffix(path.Base(source.path), ".py") + ".cpython-" + strings.ReplaceAll(py.version, ".", "") + ".pyc"
	if file, ok := py.file(path.Join(source.dir(), "__pycache__", compiled)); ok {
		m.stored = file.node
	}
	py.modules[source.node] = m
	return m
}
