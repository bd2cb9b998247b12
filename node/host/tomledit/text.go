package tomledit

import (
	"bytes"
	"errors"
	"slices"

	"github.com/pelletier/go-toml/v2/unstable"
)

// errUnknown says that a change has to be made in another way.
var errUnknown = errors.New("the place is not known")

// expression is a line or more of a document: a key with its value, or the header of a
// table.
type expression struct {
	path  []string // of all keys, those of the table included
	start int      // of the first key
	end   int      // of the value, or of the last key of a header
	value int      // where the value starts, 0 in a header
	table bool
	array bool // a header of an array of tables
}

// expressions returns what a document consists of.
func expressions(text []byte) ([]expression, error) {
	var (
		parser unstable.Parser
		all    []expression
		table  []string
	)
	parser.Reset(text)
	for parser.NextExpression() {
		node := parser.Expression()
		var e expression
		first := true
		for keys := node.Key(); keys.Next(); first = false {
			key := keys.Node()
			e.path = append(e.path, string(key.Data))
			if first {
				e.start = int(key.Raw.Offset)
			}
			e.end = int(key.Raw.Offset + key.Raw.Length)
		}
		switch node.Kind {
		case unstable.Table, unstable.ArrayTable:
			e.table, e.array = true, node.Kind == unstable.ArrayTable
			table = e.path
		case unstable.KeyValue:
			e.path = append(slices.Clone(table), e.path...)
			e.value = e.end
			e.end = int(node.Raw.Offset + node.Raw.Length)
		default:
			continue
		}
		all = append(all, e)
	}
	return all, parser.Error()
}

// setText puts a value into the text.
func (d *Document) setText(value string, path []string) ([]byte, error) {
	all, err := expressions(d.text)
	if err != nil {
		return nil, err
	}
	parent, key := path[:len(path)-1], path[len(path)-1:]
	line := encodeKeys(key) + " = " + value + "\n"
	// Where the values of the table end, which for those of no table is before the first.
	last, inside := -1, len(parent) == 0
	if inside {
		last = 0
	}
	for _, e := range all {
		if !e.table && slices.Equal(e.path, path) {
			return splice(d.text, e.value, e.end, " = "+value), nil
		}
		if e.table {
			inside = !e.array && slices.Equal(e.path, parent)
		}
		if inside {
			last = d.lineEnd(e.end)
		}
	}
	if last < 0 {
		header := "\n[" + encodeKeys(parent) + "]\n"
		return splice(d.text, len(d.text), len(d.text), header+line), nil
	}
	return splice(d.text, last, last, d.indentAt(last)+line), nil
}

// deleteText removes a path from the text.
func (d *Document) deleteText(path []string, wanted map[string]any) ([]byte, error) {
	all, err := expressions(d.text)
	if err != nil {
		return nil, err
	}
	type span struct{ from, to int }
	var spans []span
	for _, e := range all {
		gone := hasPrefix(e.path, path)
		if e.table && !gone {
			// A header with nothing below it goes when its table does.
			_, stays := lookup(wanted, e.path)
			gone = !stays
		}
		if !gone {
			continue
		}
		from, to := d.lineStart(e.start), d.lineEnd(e.end)
		if e.table {
			from = d.blanksBefore(from)
		}
		spans = append(spans, span{from, to})
	}
	if len(spans) == 0 {
		return nil, errUnknown
	}
	text := d.text
	for _, s := range slices.Backward(spans) {
		text = splice(text, s.from, s.to, "")
	}
	return text, nil
}

func hasPrefix(path, prefix []string) bool {
	return len(path) >= len(prefix) && slices.Equal(path[:len(prefix)], prefix)
}

// splice replaces a part of the text. What is put at the end of a line that has no end
// gets one in front.
func splice(text []byte, from, to int, with string) []byte {
	if from == to && from > 0 && text[from-1] != '\n' {
		with = "\n" + with
	}
	return slices.Concat(text[:from], []byte(with), text[to:])
}

// lineStart returns the start of the line that an offset is in.
func (d *Document) lineStart(offset int) int { return bytes.LastIndexByte(d.text[:offset], '\n') + 1 }

// lineEnd returns the start of the line after the one that an offset is in.
func (d *Document) lineEnd(offset int) int {
	if i := bytes.IndexByte(d.text[offset:], '\n'); i >= 0 {
		return offset + i + 1
	}
	return len(d.text)
}

// blanksBefore returns the start of the empty lines in front of a line.
func (d *Document) blanksBefore(line int) int {
	for line > 0 {
		before := d.lineStart(line - 1)
		if len(bytes.TrimSpace(d.text[before:line])) > 0 {
			break
		}
		line = before
	}
	return line
}

// indentAt returns the white space that the line before a line begins with.
func (d *Document) indentAt(line int) string {
	if line == 0 {
		return ""
	}
	before := d.text[d.lineStart(line-1):line]
	return string(before[:len(before)-len(bytes.TrimLeft(before, " \t"))])
}
