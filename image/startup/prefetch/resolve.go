package prefetch

import (
	"context"
	"fmt"
	"slices"

	"github.com/brisk-project/brisk/image/erofs"
	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/image/startup"
)

// Match is what an image has of a line.
type Match struct {
	Line

	// Files is the number of files, and Bytes what their layers store of them.
	Files int   `json:"files"`
	Bytes int64 `json:"bytes"`
	// Problem says why there is no file, empty if there is one.
	Problem string `json:"problem,omitempty"`
}

// Result is what an image has of a list.
type Result struct {
	// Trace reads the files in the order of the list; those of one line in the order in which they
	// are stored.
	Trace startup.Trace
	// Matches are the lines in their order.
	Matches []Match
	// Files is the number of different files, and Bytes what their layers store of them.
	Files int
	Bytes int64
	// Cut says that the list has more than a trace can: it ends within the list.
	Cut bool
}

// Unmatched returns the lines that match no file.
func (r *Result) Unmatched() []Match {
	return slices.DeleteFunc(slices.Clone(r.Matches), func(m Match) bool { return m.Problem == "" })
}

// Resolve finds the files of a list in an image, whose layers are given from the bottom one on.
func (l *List) Resolve(ctx context.Context, layers []*index.Layer) (*Result, error) {
	tree, err := erofs.Merge(layers)
	if err != nil {
		return nil, fmt.Errorf("finding the files of a prefetch list: %w", err)
	}
	m := &matcher{ctx: ctx, tree: tree}
	result := new(Result)
	var all startup.Recorder
	known := make(map[*erofs.Node]bool)
	for _, e := range l.entries {
		found, problem, err := m.match(e)
		if err != nil {
			return nil, fmt.Errorf("finding the files of a prefetch list: %s: %w", e.Line, err)
		}
		match := Match{Line: e.Line, Files: len(found), Problem: problem}
		for _, file := range found {
			size := int64(0)
			for _, s := range file.Segments {
				size += s.Length
				all.Add(startup.Span{Layer: layers[file.Layer].StreamID(), Offset: s.StreamOffset, Length: s.Length})
			}
			match.Bytes += size
			if !known[file] {
				known[file] = true
				result.Files++
				result.Bytes += size
			}
		}
		result.Matches = append(result.Matches, match)
	}
	result.Trace, result.Cut = all.Trace(), all.Full()
	return result, nil
}
