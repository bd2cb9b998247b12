// Package files translates between traces and names of files. A trace has ranges of layer
// streams; the indexes of the layers say which files these hold. So people can read a trace, and
// make one of a list of files.
package files
