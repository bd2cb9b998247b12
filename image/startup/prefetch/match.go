package prefetch

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/brisk-project/brisk/image/erofs"
	"github.com/brisk-project/brisk/image/index"
)

const (
	// anyDirectories is the component that stands for any number of directories.
	anyDirectories = "**"
	// maxSteps bounds what a list can cost: the names that its globs are compared with, of all lines
	// together. It is 150 times what "/**/x" needs in an image of 150,000 files.
	maxSteps = 1 << 25
	// maxStates bounds the memory that one line can take.
	maxStates = 1 << 20
	// linkSteps is what following a symbolic link counts for.
	linkSteps = 16
	// contextSteps is how often it is asked whether anybody still waits.
	contextSteps = 1 << 12
)

// errTooLong says that a list costs more than maxSteps or maxStates.
var errTooLong = errors.New("the globs of the list take too long: they are compared with too many names")

// Why a line matches no file.
const (
	problemNone        = "the image has no such file"
	problemDirectory   = "it is a directory; end the line with / for its files"
	problemNoDirectory = "it is not a directory"
	problemEmpty       = "the directory has no files"
	problemSpecial     = "it is not a regular file"
	problemGlob        = "no file matches"
	problemPattern     = "no file matches: the pattern is malformed"
)

// matcher finds the files of lines.
type matcher struct {
	ctx   context.Context //nolint:containedctx // of the one call of Resolve that the matcher is made for
	tree  *erofs.Tree
	steps int
	err   error // the first: nothing is looked at after it

	// The rest is of one line.
	entry   entry
	states  map[state]struct{} // that have been looked at
	below   map[*erofs.Node]struct{}
	files   map[*erofs.Node]struct{}
	problem string // that of the last thing that is no file
}

// state is a directory with the number of the component that is looked for in it.
type state struct {
	dir       *erofs.Node
	component int
}

// match returns the files of a line in the order in which they are stored, or else what is wrong
// with it.
func (m *matcher) match(e entry) (files []*erofs.Node, problem string, err error) {
	m.entry, m.problem = e, problemNone
	m.states, m.below, m.files = make(map[state]struct{}), make(map[*erofs.Node]struct{}), make(map[*erofs.Node]struct{})
	if slices.ContainsFunc(e.components, isGlob) {
		m.problem = problemGlob
	}
	m.descend(m.tree.Root(), 0)
	if m.err != nil {
		return nil, "", m.err
	}
	if len(m.files) == 0 {
		return nil, m.problem, nil
	}
	files = slices.Collect(maps.Keys(m.files))
	slices.SortFunc(files, func(a, b *erofs.Node) int {
		return cmp.Or(cmp.Compare(a.Layer, b.Layer), cmp.Compare(begin(a), begin(b)), cmp.Compare(a.Ino, b.Ino))
	})
	return files, "", nil
}

// begin returns where in its layer stream a file begins.
func begin(file *erofs.Node) int64 {
	if len(file.Segments) == 0 {
		return 0
	}
	return file.Segments[0].StreamOffset
}

// step counts the work, and reports whether to go on.
func (m *matcher) step(n int) bool {
	before := m.steps / contextSteps
	m.steps += n
	if m.err == nil && m.steps > maxSteps {
		m.err = errTooLong
	}
	if m.err == nil && m.steps/contextSteps != before {
		m.err = m.ctx.Err()
	}
	return m.err == nil
}

// descend looks for the components from one on in a node that is no symbolic link.
func (m *matcher) descend(n *erofs.Node, component int) {
	if component == len(m.entry.components) {
		m.take(n)
		return
	}
	s := state{n, component}
	if _, known := m.states[s]; known || !n.IsDir() || !m.step(1) {
		return
	}
	if m.states[s] = struct{}{}; len(m.states) > maxStates {
		m.err = errTooLong
		return
	}
	switch name := m.entry.components[component]; name {
	case "..":
		m.descend(n.Parent(), component+1)
	case anyDirectories:
		m.descendAny(n, component)
	default:
		m.descendNamed(n, name, component)
	}
}

// descendAny is [matcher.descend] for any number of directories. It does not leave the directory
// through symbolic links.
func (m *matcher) descendAny(dir *erofs.Node, component int) {
	last := component == len(m.entry.components)-1
	if !last || m.entry.below {
		m.descend(dir, component+1)
	}
	for _, child := range dir.Children() {
		switch {
		case !m.step(1):
			return
		case child.Node.IsDir():
			m.descend(child.Node, component)
		case last && !m.entry.below:
			m.takeFile(dir, child)
		}
	}
}

// descendNamed is [matcher.descend] for a name or pattern.
func (m *matcher) descendNamed(dir *erofs.Node, name string, component int) {
	if _, ok := dir.Lookup(name); ok {
		m.enter(dir, name, component+1)
		return
	}
	if !isGlob(name) {
		return
	}
	if _, err := path.Match(name, ""); errors.Is(err, path.ErrBadPattern) {
		m.problem = problemPattern
		return
	}
	for _, child := range dir.Children() {
		if !m.step(1) {
			return
		}
		if matched, err := path.Match(name, child.Name); err == nil && matched {
			m.enter(dir, child.Name, component+1)
		}
	}
}

// enter follows a name in a directory, and looks for the components from one on there.
func (m *matcher) enter(dir *erofs.Node, name string, component int) {
	if m.step(linkSteps) {
		if n, ok := m.tree.Resolve(dir, name); ok {
			m.descend(n, component)
		}
	}
}

// take takes what the whole line leads to.
func (m *matcher) take(n *erofs.Node) {
	switch {
	case m.entry.below && n.IsDir():
		m.problem = problemEmpty
		m.takeBelow(n)
	case m.entry.below:
		m.problem = problemNoDirectory
	case n.IsDir():
		m.problem = problemDirectory
	case n.Type != index.TypeReg:
		m.problem = problemSpecial
	default:
		m.files[n] = struct{}{}
	}
}

// takeBelow takes all files below a directory.
func (m *matcher) takeBelow(dir *erofs.Node) {
	if _, known := m.below[dir]; known {
		return
	}
	m.below[dir] = struct{}{}
	for _, child := range dir.Children() {
		switch {
		case !m.step(1):
			return
		case child.Node.IsDir():
			m.takeBelow(child.Node)
		default:
			m.takeFile(dir, child)
		}
	}
}

// takeFile takes what is in a directory if it is a file, or a symbolic link to one.
func (m *matcher) takeFile(dir *erofs.Node, child erofs.Child) {
	n := child.Node
	if n.Type == index.TypeSymlink {
		if !m.step(linkSteps) {
			return
		}
		target, ok := m.tree.Resolve(dir, child.Name)
		if !ok {
			return
		}
		n = target
	}
	if n.Type == index.TypeReg {
		m.files[n] = struct{}{}
	}
}

func isGlob(component string) bool { return strings.ContainsAny(component, `*?[\`) }
