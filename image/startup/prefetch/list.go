package prefetch

import (
	"bytes"
	"fmt"
	"strings"
)

const (
	// MaxList is the greatest length of a list in bytes.
	MaxList = 1 << 20
	// maxPath is the greatest length of a path in bytes, as in Linux.
	maxPath = 4095
	// byteOrderMark begins files that some editors write.
	byteOrderMark = "\xef\xbb\xbf"
)

// Line is a line of a list.
type Line struct {
	Number int    `json:"line"` // from 1 on
	Text   string `json:"text"`
}

// String implements fmt.Stringer.
func (l Line) String() string { return fmt.Sprintf("line %d: %q", l.Number, l.Text) }

// List is a prefetch list.
type List struct {
	content []byte
	entries []entry
}

// entry is a line that is no comment.
type entry struct {
	Line

	components []string // of the path, without empty ones
	below      bool     // it stands for all files below a directory
}

// Parse reads a list. A line without an absolute path, or beyond the limits, is an error that names
// the line.
func Parse(content []byte) (*List, error) {
	if len(content) > MaxList {
		return nil, fmt.Errorf("reading a prefetch list: %d bytes, the limit is %d", len(content), MaxList)
	}
	list := &List{content: content}
	number := 0
	for text := range bytes.Lines(bytes.TrimPrefix(content, []byte(byteOrderMark))) {
		number++
		line := Line{Number: number, Text: strings.Trim(string(text), " \t\r\n")}
		if line.Text == "" || line.Text[0] == '#' {
			continue
		}
		switch {
		case strings.IndexByte(line.Text, 0) >= 0:
			return nil, fmt.Errorf("reading a prefetch list: line %d has a NUL byte: this is no list of files", number)
		case line.Text[0] != '/':
			return nil, fmt.Errorf("reading a prefetch list: line %d: %.300q is no absolute path", number, line.Text)
		case len(line.Text) > maxPath:
			return nil, fmt.Errorf("reading a prefetch list: line %d: a path of %d bytes, the limit is %d", number, len(line.Text), maxPath)
		}
		list.entries = append(list.entries, newEntry(line))
	}
	return list, nil
}

func newEntry(line Line) entry {
	e := entry{Line: line, below: strings.HasSuffix(line.Text, "/")}
	for component := range strings.SplitSeq(line.Text, "/") {
		repeated := component == anyDirectories && len(e.components) > 0 && e.components[len(e.components)-1] == anyDirectories
		if component != "" && component != "." && !repeated {
			e.components = append(e.components, component)
		}
	}
	return e
}

// Content returns the list as it was read.
func (l *List) Content() []byte { return l.content }

// Len returns the number of lines that are no comments.
func (l *List) Len() int { return len(l.entries) }
