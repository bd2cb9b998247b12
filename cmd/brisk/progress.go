package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// progressTo returns where progress is drawn: the terminal on standard error, or
// nowhere if that is none.
func (g *globals) progressTo() io.Writer {
	if g.verbose || !term.IsTerminal(int(os.Stderr.Fd())) {
		return io.Discard
	}
	return os.Stderr
}

// progress is a bar over bytes. It is safe for concurrent use.
type progress struct {
	mu    sync.Mutex
	total int64
	bar   *progressbar.ProgressBar
}

func newProgress(to io.Writer, what string) *progress {
	return &progress{bar: progressbar.NewOptions64(1,
		progressbar.OptionSetWriter(to),
		progressbar.OptionSetDescription(what),
		progressbar.OptionShowBytes(true),
		progressbar.OptionShowCount(),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionClearOnFinish(),
		progressbar.OptionSetRenderBlankState(true),
	)}
}

// grow raises what is to be done.
func (p *progress) grow(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.total += n
	p.bar.ChangeMax64(max(1, p.total))
}

// add says that more has been done.
func (p *progress) add(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.bar.Add64(n) //nolint:errcheck // a terminal that has gone stops nothing
}

// finish removes the bar.
func (p *progress) finish() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.bar.Finish(); err != nil {
		return fmt.Errorf("drawing progress: %w", err)
	}
	return nil
}
