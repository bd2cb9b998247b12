package record

import (
	"bytes"
	"io"
	"regexp"
	"sync"
)

// maxLine is how much of a line of output is looked at, in bytes.
const maxLine = 64 << 10

// lines passes output on and looks for a line that matches one of the patterns. Each stream of
// a program has its own.
type lines struct {
	to       io.Writer
	patterns []*regexp.Regexp
	found    func(*regexp.Regexp) // called for the first match

	once sync.Once
	line []byte
}

// Write implements [io.Writer].
func (l *lines) Write(p []byte) (int, error) {
	for rest := p; len(l.patterns) > 0 && len(rest) > 0; {
		part, after, whole := bytes.Cut(rest, []byte("\n"))
		l.line = append(l.line, part[:min(len(part), maxLine-len(l.line))]...)
		rest = after
		if whole {
			l.match()
			l.line = l.line[:0]
		}
	}
	return l.to.Write(p)
}

func (l *lines) match() {
	for _, pattern := range l.patterns {
		if pattern.Match(l.line) {
			l.once.Do(func() { l.found(pattern) })
		}
	}
}

// sharedWriter is a writer for several goroutines.
type sharedWriter struct {
	mu sync.Mutex
	to io.Writer
}

// Write implements [io.Writer].
func (w *sharedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.to.Write(p)
}
