package erofs

import "io"

// BuildFor4096 is Build with blocks of 4096 bytes, for the fsck.erofs of
// distributions that reads no others.
func BuildFor4096(w io.Writer, t *Tree) (Stats, error) { return build(w, t, Config{}, 12) }
