// Package tomledit changes single values of TOML documents and leaves the rest, comments
// and order included, as it was.
//
// Where things are is what a TOML parser says, and each result is parsed again: if it
// does not say exactly what the change was to make it say, because the document is
// written in a way that this package does not know, the whole document is written again
// from its values. The result is therefore always right, and nearly always pretty.
package tomledit
