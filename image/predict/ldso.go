package predict

import (
	"bytes"
	"encoding/binary"
	"path"
	"slices"
	"strings"
)

const (
	// maxCache is the longest ld.so.cache in bytes that is read; those of large distributions have
	// a few hundred KiB.
	maxCache = 8 << 20
	// maxConfig is the longest ld.so.conf in bytes, with what it includes.
	maxConfig = 256 << 10
	// maxConfigFiles is the most files that ld.so.conf may include.
	maxConfigFiles = 64

	cacheMagic = "glibc-ld.so.cache1.1"
	oldMagic   = "ld.so-1.7.0"
)

// parseCache returns the paths of libraries by name that an ld.so.cache has, in its order. Damaged
// ones give too little.
func parseCache(content []byte) map[string][]string {
	found := make(map[string][]string)
	start := 0
	if bytes.HasPrefix(content, []byte(oldMagic)) {
		// The old format comes first, the new one follows it on a boundary of 8 bytes.
		if len(content) < 16 {
			return found
		}
		count := uint64(binary.LittleEndian.Uint32(content[12:]))
		if count > uint64(len(content))/12 {
			return found
		}
		start = (16 + int(count)*12 + 7) &^ 7
	}
	if start > len(content) || !bytes.HasPrefix(content[start:], []byte(cacheMagic)) {
		return found
	}
	table := content[start:]
	const header, entry = 48, 24
	if len(table) < header {
		return found
	}
	order := binary.ByteOrder(binary.LittleEndian)
	if table[28]&3 == 3 { // the flag of big endian
		order = binary.BigEndian
	}
	count := order.Uint32(table[20:])
	if uint64(count) > uint64(len(table)-header)/entry {
		return found
	}
	text := func(offset uint32) string {
		if int64(offset) >= int64(len(table)) {
			return ""
		}
		s := table[offset:min(int(offset)+maxElfName, len(table))]
		if name, _, ok := bytes.Cut(s, []byte{0}); ok {
			return string(name)
		}
		return ""
	}
	for row := range slices.Chunk(table[header:header+int(count)*entry], entry) {
		name, file := text(order.Uint32(row[4:])), text(order.Uint32(row[8:]))
		if name != "" && path.IsAbs(file) && len(found[name]) < maxConfigFiles {
			found[name] = append(found[name], file)
		}
	}
	return found
}

// configured returns the directories that /etc/ld.so.conf lists, with the files it includes.
func (r *rootfs) configured() (dirs []string, files []place) {
	pending, left := []string{"/etc/ld.so.conf"}, int64(maxConfig)
	for len(pending) > 0 && len(files) < maxConfigFiles {
		f, ok := r.file(pending[0])
		pending = pending[1:]
		if !ok || slices.Contains(files, f) {
			continue
		}
		content, err := r.content(f.node, left)
		if err != nil {
			continue
		}
		files, left = append(files, f), left-int64(len(content))
		listed, included := parseConfig(content)
		dirs = append(dirs, listed...)
		for _, pattern := range included {
			pending = append(pending, r.glob(pattern)...)
		}
	}
	return dirs[:min(len(dirs), maxConfigFiles)], files
}

// parseConfig returns the directories that a file such as ld.so.conf lists, and the patterns of the
// files that it includes.
func parseConfig(content []byte) (dirs, included []string) {
	for line := range strings.Lines(string(content)) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.FieldsFunc(line, func(c rune) bool { return strings.ContainsRune(" \t\r\n:,", c) })
		if len(fields) > 0 && fields[0] == "include" {
			included = append(included, fields[1:]...)
			continue
		}
		dirs = append(dirs, slices.DeleteFunc(fields, func(dir string) bool { return !path.IsAbs(dir) })...)
	}
	return dirs[:min(len(dirs), maxConfigFiles)], included[:min(len(included), maxConfigFiles)]
}

// glob returns the paths that match a pattern, which may have wildcards in its last component only.
func (r *rootfs) glob(pattern string) []string {
	if !path.IsAbs(pattern) {
		pattern = path.Join("/etc", pattern)
	}
	dir, ok := r.resolve(path.Dir(pattern))
	if !ok {
		return nil
	}
	var found []string
	for _, c := range dir.node.children() {
		if ok, err := path.Match(path.Base(pattern), c.name); err == nil && ok && len(found) < maxConfigFiles {
			found = append(found, path.Join(dir.path, c.name))
		}
	}
	return found
}

// splitPath returns the directories of a search path.
func splitPath(list string) []string {
	return strings.FieldsFunc(list, func(c rune) bool { return c == ':' || c == ';' })
}
