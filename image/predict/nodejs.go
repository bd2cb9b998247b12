package predict

import (
	"encoding/json"
	"path"
	"strings"

	"github.com/brisk-project/brisk/image/index"
)

// maxPackage is the longest package.json in bytes that is read.
const maxPackage = 256 << 10

// nodeJS adds what Node.js loads with these arguments.
func (p *predictor) nodeJS(args []string, depth int) {
	js := &javaScript{predictor: p, modules: make(map[*node]*module), packages: make(map[*node]*nodePackage)}
	var entries []*module
	add := func(name string) {
		if m := js.entry(name); m != nil {
			entries = append(entries, m)
		} else {
			p.note("Node.js: the image has no module %.100q", name)
		}
	}
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		option, value, joined := strings.Cut(args[0], "=")
		args = args[1:]
		switch option {
		case "-e", "--eval", "-p", "--print", "-i", "--interactive":
			return
		case "-r", "--require", "--import", "--loader", "--experimental-loader", "-C", "--conditions", "--env-file":
			if !joined && len(args) > 0 {
				value, args = args[0], args[1:]
			}
			if option != "-C" && option != "--conditions" && option != "--env-file" {
				add(value)
			}
		}
	}
	if len(args) > 0 {
		add(p.absolute(args[0]))
	}
	p.load(entries, js)
	if len(entries) > 0 && len(args) > 1 && isNPM(args[0]) {
		p.npm(args[1:], depth)
	}
}

// isNPM reports whether a script is one of the programs that run scripts of a package.
func isNPM(script string) bool {
	switch strings.TrimSuffix(path.Base(script), path.Ext(script)) {
	case "npm", "npm-cli", "yarn", "pnpm":
		return true
	default:
		return false
	}
}

// npm adds what a script of the package in the working directory does.
func (p *predictor) npm(args []string, depth int) {
	args = afterOptions(args, "--prefix", "-C", "--cwd")
	if len(args) > 1 && (args[0] == "run" || args[0] == "run-script") {
		args = args[1:]
	}
	file, ok := p.file(p.absolute("package.json"))
	if !ok || len(args) == 0 {
		return
	}
	content, err := p.content(file.node, maxPackage)
	if err != nil {
		return
	}
	var described struct {
		Scripts map[string]string `json:"scripts"`
	}
	if json.Unmarshal(content, &described) != nil {
		return
	}
	p.take(file.node)
	if script := described.Scripts[args[0]]; script != "" {
		p.env["PATH"] = p.absolute("node_modules/.bin") + ":" + p.searchPath()
		p.start([]string{"sh", "-c", "exec " + script}, depth+1)
	}
}

// javaScript finds modules as Node.js does.
type javaScript struct {
	*predictor

	modules  map[*node]*module
	packages map[*node]*nodePackage // by package.json
}

// nodePackage is what is used of a package.json.
type nodePackage struct {
	Main    string          `json:"main"`
	Exports json.RawMessage `json:"exports"`
}

// entry returns the module that an argument names.
func (js *javaScript) entry(name string) *module {
	if !path.IsAbs(name) {
		return js.resolveModule(name, js.absolute("."))
	}
	return js.fileOrDirectory(name, nil)
}

// loads implements language.
func (js *javaScript) loads(m *module, content []byte) []*module {
	if path.Ext(m.source.path) == ".json" {
		return nil
	}
	var loaded []*module
	for _, specifier := range scanJavaScript(content) {
		if found := js.resolveModule(specifier, m.source.dir()); found != nil {
			loaded = append(loaded, found)
		}
	}
	return loaded
}

// resolveModule returns the module of a specifier in a source of the directory from; nil if there is
// none.
func (js *javaScript) resolveModule(specifier, from string) *module {
	switch {
	case specifier == "" || strings.HasPrefix(specifier, "node:") || strings.HasPrefix(specifier, "#") || strings.ContainsRune(specifier, 0):
		return nil
	case specifier[0] == '/' || specifier == "." || specifier == ".." || strings.HasPrefix(specifier, "./") || strings.HasPrefix(specifier, "../"):
		if !path.IsAbs(specifier) {
			specifier = path.Join(from, specifier)
		}
		return js.fileOrDirectory(specifier, nil)
	}
	name, below, _ := strings.Cut(specifier, "/")
	if strings.HasPrefix(name, "@") {
		var second string
		second, below, _ = strings.Cut(below, "/")
		name += "/" + second
	}
	for dir := from; ; dir = path.Dir(dir) {
		if path.Base(dir) != "node_modules" {
			if found, ok := js.resolve(path.Join(dir, "node_modules", name)); ok && found.node.isDir() {
				return js.inPackage(found, below)
			}
		}
		if dir == "/" || dir == "." {
			return nil
		}
	}
}

// inPackage returns a module of a package, the main one if below is empty.
func (js *javaScript) inPackage(dir place, below string) *module {
	file, described := js.describe(dir)
	if described == nil {
		return js.fileOrDirectory(path.Join(dir.path, below), nil)
	}
	before := []*node{file}
	if target := exported(described.Exports, below); target != "" {
		if m := js.fileOrDirectory(path.Join(dir.path, target), before); m != nil {
			return m
		}
	}
	if below != "" {
		return js.fileOrDirectory(path.Join(dir.path, below), before)
	}
	return js.directory(dir, before)
}

// fileOrDirectory returns the module that a path names, with or without an extension.
func (js *javaScript) fileOrDirectory(name string, before []*node) *module {
	for _, extension := range []string{"", ".js", ".json", ".node", ".mjs", ".cjs"} {
		if found, ok := js.resolve(name + extension); ok && found.node.kind == index.TypeReg {
			return js.module(found, before)
		}
	}
	if found, ok := js.resolve(name); ok && found.node.isDir() {
		return js.directory(found, before)
	}
	return nil
}

// directory returns the main module of a directory.
func (js *javaScript) directory(dir place, before []*node) *module {
	file, described := js.describe(dir)
	if described != nil {
		before = append(before, file)
		if main := path.Join(dir.path, described.Main); described.Main != "" && main != dir.path {
			if found, ok := js.resolve(main); !ok || !found.node.isDir() {
				if m := js.fileOrDirectory(main, before); m != nil {
					return m
				}
			} else {
				dir = found
			}
		}
	}
	for _, name := range []string{"index.js", "index.json", "index.node"} {
		if found, ok := js.file(path.Join(dir.path, name)); ok {
			return js.module(found, before)
		}
	}
	return nil
}

func (js *javaScript) module(source place, before []*node) *module {
	if m := js.modules[source.node]; m != nil {
		return m
	}
	// The type of the module is said by the nearest package.json.
	for dir := source.dir(); len(before) == 0 && path.Base(dir) != "node_modules"; dir = path.Dir(dir) {
		if file, ok := js.file(path.Join(dir, "package.json")); ok {
			before = append(before, file.node)
		}
		if dir == "/" {
			break
		}
	}
	m := &module{source: source, before: before, native: path.Ext(source.path) == ".node"}
	js.modules[source.node] = m
	return m
}

// describe returns the package.json of a directory, nil if there is none that can be read.
func (js *javaScript) describe(dir place) (*node, *nodePackage) {
	file, ok := js.file(path.Join(dir.path, "package.json"))
	if !ok {
		return nil, nil
	}
	if known, ok := js.packages[file.node]; ok {
		return file.node, known
	}
	var described *nodePackage
	if content, err := js.content(file.node, maxPackage); err == nil {
		described = new(nodePackage)
		if json.Unmarshal(content, described) != nil {
			described = nil
		}
	}
	js.packages[file.node] = described
	return file.node, described
}

// maxConditions is how deep conditions of exports may be nested.
const maxConditions = 16

// exported returns what the exports of a package say of a module, with the conditions that require has.
func exported(exports json.RawMessage, below string) string {
	subpath := "."
	if below != "" {
		subpath = "./" + below
	}
	var paths map[string]json.RawMessage
	if json.Unmarshal(exports, &paths) == nil {
		for key := range paths {
			if strings.HasPrefix(key, ".") {
				return condition(paths[subpath], 0)
			}
		}
	}
	if below != "" {
		return ""
	}
	return condition(exports, 0)
}

func condition(target json.RawMessage, depth int) string {
	if len(target) == 0 || depth > maxConditions {
		return ""
	}
	var file string
	if json.Unmarshal(target, &file) == nil {
		return file
	}
	var list []json.RawMessage
	if json.Unmarshal(target, &list) == nil {
		for _, one := range list[:min(len(list), maxConditions)] {
			if file := condition(one, depth+1); file != "" {
				return file
			}
		}
		return ""
	}
	var conditions map[string]json.RawMessage
	if json.Unmarshal(target, &conditions) != nil {
		return ""
	}
	for _, name := range []string{"node", "require", "import", "default"} {
		if file := condition(conditions[name], depth+1); file != "" {
			return file
		}
	}
	return ""
}
