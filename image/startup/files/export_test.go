package files

// NewIndex returns an index of parts in any order.
func NewIndex(parts ...Part) *Index {
	x := &Index{parts}
	x.sort()
	return x
}
