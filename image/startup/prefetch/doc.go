// Package prefetch reads prefetch lists: the files of an image that its user wants to be local at
// the start, whether the program has read them yet or not. [Parse] reads a list, and [List.Resolve]
// finds its files in an image and returns them as a trace.
//
// A list has one absolute path a line. A line that ends with "/" stands for all files below a
// directory. Lines may have globs: "*", "?" and "[...]" within a name, and "**" for any number of
// directories; a backslash takes the meaning from the next character. A name that exists as it is
// written is taken as it is. Symbolic links in a path are followed, and so are links to files below
// a directory, but not links to directories there: these may lead anywhere. Empty lines and lines
// that begin with "#" are comments.
package prefetch
