package layout

import (
	"os"
	"strings"
)

// kind is a way to keep images in files.
type kind string

const (
	kindDirectory kind = "oci"
	kindArchive   kind = "oci-archive"
	kindDocker    kind = "docker-archive"
)

// IsFile reports whether text names an image in a file.
func IsFile(text string) bool {
	_, _, ok := split(text)
	return ok
}

func split(text string) (kind, string, bool) {
	before, rest, ok := strings.Cut(text, ":")
	switch k := kind(before); k {
	case kindDirectory, kindArchive, kindDocker:
		// A registry on this host could be called "oci", with a port. Skopeo has the same names.
		return k, rest, ok
	}
	return "", "", false
}

// pathAndTag takes a name apart. A path may have colons: as much of the name as exists is the
// path. If nothing exists, the tag is what follows the last colon.
func pathAndTag(rest string) (path, tag string) {
	for end := len(rest); end > 0; end = strings.LastIndexByte(rest[:end], ':') {
		if _, err := os.Stat(rest[:end]); err == nil {
			return rest[:end], strings.TrimPrefix(rest[end:], ":")
		}
	}
	path, tag, _ = cutTag(rest)
	return path, tag
}
