package files

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"path"
	"strings"

	"github.com/brisk-project/brisk/image/erofs"
	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/image/startup"
)

// MaxList is the longest list of files in bytes that is read.
const MaxList = 16 << 20

// ParseList reads a list of files: one path a line, or one JSON object a line with the path as
// its field "path", as the recorder of eStargz writes them. Empty lines and those that begin with
// # are passed over, and so is what comes twice.
func ParseList(content []byte) ([]string, error) {
	if len(content) > MaxList {
		return nil, fmt.Errorf("reading a list of files: %d bytes, the limit is %d", len(content), MaxList)
	}
	var paths []string
	seen := make(map[string]bool)
	lines := bufio.NewScanner(bytes.NewReader(content))
	lines.Buffer(nil, MaxList)
	for number := 1; lines.Scan(); number++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if strings.HasPrefix(line, "{") {
			var entry struct {
				Path string `json:"path"`
			}
			if err := json.Unmarshal([]byte(line), &entry); err != nil {
				return nil, fmt.Errorf("reading a list of files: line %d: %w", number, err)
			}
			line = entry.Path
		}
		if clean := path.Clean("/" + line); !seen[clean] {
			seen[clean] = true
			paths = append(paths, clean)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading a list of files: %w", err)
	}
	return paths, nil
}

// Trace returns the trace of reading the whole content of files of an image, in the order of the
// list, and the paths that the image does not have as files. Symbolic links are followed.
func Trace(paths []string, layers []*index.Layer) (t startup.Trace, missing []string, err error) {
	tree, err := erofs.Merge(layers)
	if err != nil {
		return nil, nil, fmt.Errorf("finding files: %w", err)
	}
	var all startup.Recorder
	for _, p := range paths {
		node, ok := tree.Resolve(tree.Root(), p)
		if !ok || node.Type != index.TypeReg {
			missing = append(missing, p)
			continue
		}
		for _, s := range node.Segments {
			all.Add(startup.Span{Layer: layers[node.Layer].StreamID(), Offset: s.StreamOffset, Length: s.Length})
		}
	}
	return all.Trace(), missing, nil
}
