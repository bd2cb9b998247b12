package predict

import (
	"cmp"
	"slices"

	"github.com/brisk-project/brisk/internal/block"
)

const (
	// maxModule is the longest source in bytes that is searched for what it loads. Longer ones are
	// mostly bundles of all that a program needs.
	maxModule = 1 << 20
	// maxModules is the most modules of a prediction.
	maxModules = 8192
)

// module is a source file of a program, and what it loads.
type module struct {
	source place
	before []*node // what is read to find it
	stored *node   // what is read instead of the source, nil for the source itself
	native bool    // it is a shared library
	loads  []*module
	taken  bool
}

// language finds the modules that a source loads, in the order in which it does. The same module is
// the same pointer.
type language interface {
	loads(m *module, content []byte) []*module
}

// load adds modules with all that they load. Sources are read in the order of the layers, as far
// as possible, since those that lie side by side come with one request.
func (p *predictor) load(entries []*module, in language) {
	known := make(map[*module]bool)
	count := 0
	for wave := slices.Clone(entries); len(wave) > 0; {
		slices.SortStableFunc(wave, func(a, b *module) int { return p.compare(a.source.node, b.source.node) })
		var next []*module
		for _, m := range wave {
			if known[m] || count >= maxModules || p.spent || p.ctx.Err() != nil {
				continue
			}
			known[m] = true
			count++
			if m.native {
				continue
			}
			content, err := p.content(m.source.node, maxModule)
			if err != nil {
				continue
			}
			m.loads = in.loads(m, content)
			next = append(next, m.loads...)
		}
		wave = next
	}
	for _, m := range entries {
		p.takeModules(m)
	}
}

// compare orders files by their position in the layers.
func (p *predictor) compare(a, b *node) int {
	offset := func(f *node) int64 {
		if segments := f.segments(); len(segments) > 0 {
			return segments[0].StreamOffset / block.Size
		}
		return 0
	}
	return cmp.Or(cmp.Compare(a.layer, b.layer), cmp.Compare(offset(a), offset(b)))
}

// takeModules adds a module and what it loads, in the order in which they are read.
func (p *predictor) takeModules(first *module) {
	pending := []*module{first}
	for len(pending) > 0 {
		m := pending[len(pending)-1]
		pending = pending[:len(pending)-1]
		if m.taken {
			continue
		}
		m.taken = true
		for _, f := range m.before {
			p.take(f)
		}
		switch {
		case m.native && p.loader != nil:
			p.loader.open(m.source)
		case m.stored != nil:
			p.take(m.stored)
		default:
			p.take(m.source.node)
		}
		for _, loaded := range slices.Backward(m.loads) {
			pending = append(pending, loaded)
		}
	}
}
