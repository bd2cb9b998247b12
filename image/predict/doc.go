// Package predict guesses what the start of an image reads from the content of the image: the
// program that its configuration names with its shared libraries, the interpreters of scripts, and
// the modules that a program of Node.js or Python loads first.
//
// A prediction is a hint for images whose start nobody has recorded. It is often incomplete, for
// only a program itself knows what it opens. So [Run] never fails for what it does not
// understand: it leaves that out and says why.
//
// The files of an image are not trusted. All that is parsed has limits: lengths of files, numbers
// of libraries and modules, depth of links, and bytes that are read from the layers.
package predict
