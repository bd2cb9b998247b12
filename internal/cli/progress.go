package cli

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
)

// Progress is a bar over bytes. It is safe for concurrent use.
type Progress struct {
	mu    sync.Mutex
	total int64
	bar   *progressbar.ProgressBar
}

// NewProgress returns a bar that is drawn to a terminal.
func NewProgress(to io.Writer, what string) *Progress {
	return &Progress{bar: progressbar.NewOptions64(1,
		progressbar.OptionSetWriter(to),
		progressbar.OptionSetDescription(what),
		progressbar.OptionShowBytes(true),
		progressbar.OptionUseIECUnits(true),
		progressbar.OptionShowCount(),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionClearOnFinish(),
		progressbar.OptionSetRenderBlankState(true),
	)}
}

// Grow raises what is to be done.
func (p *Progress) Grow(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.total += n
	p.bar.ChangeMax64(max(1, p.total))
}

// Add adds to the completed amount.
func (p *Progress) Add(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.bar.Add64(n) //nolint:errcheck // a terminal that has gone stops nothing
}

// Finish removes the bar.
func (p *Progress) Finish() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.bar.Finish(); err != nil {
		return fmt.Errorf("drawing progress: %w", err)
	}
	return nil
}
