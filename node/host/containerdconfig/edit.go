package containerdconfig

import (
	"bytes"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"

	"github.com/pelletier/go-toml/v2"

	"github.com/brisk-project/brisk/node/host/tomledit"
)

// The keys that select a snapshotter, in the section that holds them.
const (
	keySnapshotter   = "snapshotter"
	keyNoAnnotations = "disable_snapshot_annotations"
	keyLocalPull     = "use_local_image_pull"
)

// sections returns where the keys are, by version of the format.
func sections() map[int64][]string {
	return map[int64][]string{
		2: {"plugins", "io.containerd.grpc.v1.cri", "containerd"},
		3: {"plugins", "io.containerd.cri.v1.images"},
	}
}

// proxyPlugin is the entry of the snapshotter in the configuration of containerd.
type proxyPlugin struct {
	Type         string            `toml:"type"`
	Address      string            `toml:"address"`
	Capabilities []string          `toml:"capabilities"`
	Exports      map[string]string `toml:"exports"`
}

func (t Target) plugin() proxyPlugin {
	return proxyPlugin{
		Type: "snapshot", Address: t.Socket, Capabilities: []string{"remap-ids"},
		Exports: map[string]string{
			// What the disk usage of images is measured by.
			"root": t.Dir,
			// Pulls by the transfer service say what they pull.
			"enable_remote_snapshot_annotations": "true",
		},
	}
}

// dropInFile is the file of our own for containerd 2.
type dropInFile struct {
	Version      int64                  `toml:"version"`
	ProxyPlugins map[string]proxyPlugin `toml:"proxy_plugins"`
	Plugins      map[string]any         `toml:"plugins,omitempty"`
}

// dropIn returns the content of the file of our own. It has the version of the main file:
// up to 2.1, containerd takes all files to be of the version of the last one, and
// does not convert what an older main file says.
func (t Target) dropIn(state State, version int64) ([]byte, error) {
	if state == Absent || t.Version.Major < 2 {
		return nil, nil
	}
	file := dropInFile{Version: version, ProxyPlugins: map[string]proxyPlugin{t.Name: t.plugin()}}
	if state == Selected {
		keys := map[string]any{keySnapshotter: t.Name, keyNoAnnotations: false}
		if t.Version.AtLeast(2, 1) {
			// Annotations are passed by local pulls only; containerd warns when it
			// has to find that out itself.
			keys[keyLocalPull] = true
		}
		file.Plugins = map[string]any{"io.containerd.cri.v1.images": keys}
		if version == 2 {
			// Where containerd converts what the main file says here, it would
			// win over the section above; it does not convert all there is.
			old := map[string]any{keySnapshotter: t.Name, keyNoAnnotations: false}
			file.Plugins["io.containerd.grpc.v1.cri"] = map[string]any{"containerd": old}
		}
	}
	text, err := toml.Marshal(file)
	if err != nil {
		return nil, fmt.Errorf("writing the configuration of containerd: %w", err)
	}
	return append([]byte(marker), text...), nil
}

// pattern is what the main file imports.
func (t Target) pattern() string { return filepath.Join(filepath.Dir(t.DropIn), "*.toml") }

// imported returns what a main file imports.
func imported(doc *tomledit.Document) []string {
	value, _ := doc.Get("imports")
	items, ok := value.([]any)
	if !ok {
		return nil
	}
	var list []string
	for _, item := range items {
		if text, ok := item.(string); ok {
			list = append(list, text)
		}
	}
	return list
}

// imports reports whether a main file imports the file of our own.
func (t Target) imports(doc *tomledit.Document) bool {
	return slices.ContainsFunc(imported(doc), func(pattern string) bool {
		if !filepath.IsAbs(pattern) {
			pattern = filepath.Join(filepath.Dir(t.Main), pattern)
		}
		ok, err := filepath.Match(filepath.Clean(pattern), t.DropIn)
		return ok && err == nil
	})
}

func (t Target) importDropIn(doc *tomledit.Document) error {
	if t.imports(doc) {
		return nil
	}
	return doc.Set(append(imported(doc), t.pattern()), "imports")
}

// edit changes the main file of containerd 1.7.
func (t Target) edit(doc *tomledit.Document, state State, version int64, backup []byte) error {
	section, ok := sections()[version]
	if !ok {
		return fmt.Errorf("version %d is not one that containerd %s reads", version, t.Version)
	}
	plugin := t.plugin()
	proxy := []string{"proxy_plugins", t.Name}
	type setting struct {
		value any
		path  []string
	}
	settings := []setting{
		{plugin.Type, append(slices.Clone(proxy), "type")},
		{plugin.Address, append(slices.Clone(proxy), "address")},
		{plugin.Exports["root"], append(slices.Clone(proxy), "exports", "root")},
	}
	if state == Selected {
		settings = append(settings,
			setting{t.Name, append(slices.Clone(section), keySnapshotter)},
			setting{false, append(slices.Clone(section), keyNoAnnotations)})
	}
	for _, s := range settings {
		if now, ok := doc.Get(s.path...); ok && now == s.value {
			continue
		}
		if err := doc.Set(s.value, s.path...); err != nil {
			return err
		}
	}
	if state == Selected {
		return nil
	}
	return t.deselect(doc, backup)
}

// deselect gives the CRI back the snapshotter that it had, or its default.
func (t Target) deselect(doc *tomledit.Document, backup []byte) error {
	before, err := tomledit.Parse(backup)
	if err != nil {
		return fmt.Errorf("reading the copy of it: %w", err)
	}
	for _, section := range sections() {
		if now, _ := doc.Get(append(slices.Clone(section), keySnapshotter)...); now != t.Name {
			continue
		}
		for _, key := range []string{keySnapshotter, keyNoAnnotations, keyLocalPull} {
			path := append(slices.Clone(section), key)
			value, ok := before.Get(path...)
			if ok && value != t.Name {
				err = doc.Set(value, path...)
			} else {
				err = doc.Delete(path...)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// clean returns the main file without the snapshotter, nil if there was none before.
func (t Target) clean(main, backup []byte) ([]byte, error) {
	if main == nil {
		return nil, nil
	}
	doc, err := tomledit.Parse(main)
	if err != nil {
		return nil, err
	}
	if err := t.deselect(doc, backup); err != nil {
		return nil, err
	}
	if err := doc.Delete("proxy_plugins", t.Name); err != nil {
		return nil, err
	}
	before, err := tomledit.Parse(backup)
	if err != nil {
		return nil, fmt.Errorf("reading the copy of it: %w", err)
	}
	ours := bytes.HasPrefix(main, []byte(marker))
	if err := t.removeImport(doc, before, ours || backup != nil); err != nil {
		return nil, err
	}
	if backup != nil && sameValues(doc, before) {
		return backup, nil
	}
	if values, ok := doc.Get(); ok && ours {
		if table, ok := values.(map[string]any); ok && len(table) == 1 {
			return nil, nil // only the version
		}
	}
	return doc.Bytes(), nil
}

// removeImport removes the import that was added, unless other files need it by now.
func (t Target) removeImport(doc, before *tomledit.Document, added bool) error {
	now, then := imported(doc), imported(before)
	if !added || !slices.Contains(now, t.pattern()) || slices.Contains(then, t.pattern()) {
		return nil
	}
	others, err := filepath.Glob(t.path(t.pattern()))
	if err != nil {
		return fmt.Errorf("looking for what is imported: %w", err)
	}
	if slices.ContainsFunc(others, func(path string) bool { return path != t.path(t.DropIn) }) {
		return nil
	}
	left := slices.DeleteFunc(now, func(pattern string) bool { return pattern == t.pattern() })
	if _, ok := before.Get("imports"); !ok && len(left) == 0 {
		return doc.Delete("imports")
	}
	return doc.Set(append([]string{}, left...), "imports")
}

// sameValues reports whether two documents say the same. Empty tables say nothing.
func sameValues(a, b *tomledit.Document) bool {
	left, _ := a.Get()
	right, _ := b.Get()
	return reflect.DeepEqual(withoutEmpty(left), withoutEmpty(right))
}

func withoutEmpty(value any) any {
	table, ok := value.(map[string]any)
	if !ok {
		return value
	}
	full := make(map[string]any)
	for key, value := range table {
		value = withoutEmpty(value)
		if inner, ok := value.(map[string]any); !ok || len(inner) > 0 {
			full[key] = value
		}
	}
	return full
}
