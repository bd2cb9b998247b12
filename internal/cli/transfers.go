package cli

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/brisk-project/brisk/internal/units"
)

const (
	// drawEvery is how often a terminal is drawn anew, logEvery how often lines are logged.
	drawEvery = 100 * time.Millisecond
	logEvery  = 10 * time.Second
	// minMeasured is for how long something must have been measured to say how long it will take.
	minMeasured = 500 * time.Millisecond
	barWidth    = 10
	// defaultColumns is how wide a terminal is that does not say it.
	defaultColumns = 80
)

// TransfersConfig configures [NewTransfers].
type TransfersConfig struct {
	// To is where progress is shown.
	To io.Writer
	// Terminal draws bars, and removes them at the end. Otherwise lines are logged.
	Terminal bool
	// Now is the clock. Default [time.Now].
	Now func() time.Time
}

// Transfers shows how far transfers have come, each and all together: bytes, rate and the time that
// is left. It is safe for concurrent use.
type Transfers struct {
	cfg TransfersConfig

	mu     sync.Mutex
	parts  map[string]*transfer
	active []*transfer // in the order in which they began
	all    transfer
	shown  time.Time
	lines  int // on the terminal
}

// transfer is a number of bytes on their way.
type transfer struct {
	name        string
	total, done int64
	moved       int64 // of done, without what was there already
	began       time.Time
}

// NewTransfers returns the display of transfers that are yet to be planned.
func NewTransfers(cfg TransfersConfig) *Transfers {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Transfers{cfg: cfg, parts: make(map[string]*transfer), all: transfer{name: "total"}, shown: cfg.Now()}
}

// Plan announces a transfer of total bytes.
func (t *Transfers) Plan(name string, total int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.parts[name] = &transfer{name: name, total: total}
	t.all.total += total
}

// Skip ends a transfer whose bytes need not be moved.
func (t *Transfers) Skip(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.parts[name]
	if p == nil {
		return
	}
	t.all.done += p.total - p.done
	t.end(p)
}

// Advance says how many bytes of a transfer have been moved by now. The last byte ends it.
func (t *Transfers) Advance(name string, done int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.parts[name]
	if p == nil {
		return
	}
	now := t.cfg.Now()
	if t.all.began.IsZero() {
		t.all.began = now
	}
	if p.began.IsZero() {
		p.began = now
		t.active = append(t.active, p)
	}
	n := done - p.done
	p.done, p.moved = done, p.moved+n
	t.all.done, t.all.moved = t.all.done+n, t.all.moved+n
	if p.done >= p.total {
		t.end(p)
	}
	t.show(now)
}

func (t *Transfers) end(p *transfer) {
	delete(t.parts, p.name)
	t.active = slices.DeleteFunc(t.active, func(other *transfer) bool { return other == p })
}

// show draws or logs if it is time for it. That a terminal or a log has gone stops nothing.
func (t *Transfers) show(now time.Time) {
	every := logEvery
	if t.cfg.Terminal {
		every = drawEvery
	}
	if now.Sub(t.shown) < every {
		return
	}
	t.shown = now
	var text strings.Builder
	t.erase(&text)
	columns := 0
	if t.cfg.Terminal {
		columns = t.columns()
	}
	for _, p := range append(slices.Clip(t.active), &t.all) {
		line := p.line(now, t.cfg.Terminal)
		if t.cfg.Terminal {
			line = line[:min(len(line), columns-1)] // a line that wraps could not be erased
			t.lines++
		}
		text.WriteString(line + "\n")
	}
	_, _ = io.WriteString(t.cfg.To, text.String()) //nolint:errcheck // see above
}

// erase moves to the first line that was drawn, and clears from there.
func (t *Transfers) erase(to *strings.Builder) {
	if t.lines > 0 {
		fmt.Fprintf(to, "\x1b[%dA\r\x1b[J", t.lines)
		t.lines = 0
	}
}

func (t *Transfers) columns() int {
	if file, ok := t.cfg.To.(*os.File); ok {
		if columns, _, err := term.GetSize(int(file.Fd())); err == nil && columns > 1 {
			return columns
		}
	}
	return defaultColumns
}

// Close removes what was drawn.
func (t *Transfers) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var text strings.Builder
	t.erase(&text)
	if _, err := io.WriteString(t.cfg.To, text.String()); err != nil {
		return fmt.Errorf("drawing progress: %w", err)
	}
	return nil
}

// line describes a transfer in ASCII.
func (p *transfer) line(now time.Time, bar bool) string {
	percent := int64(100)
	if p.total > 0 {
		percent = p.done * 100 / p.total
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%-12s ", p.name)
	if bar {
		full := int(percent) * barWidth / 100
		fmt.Fprintf(&b, "[%s%s] ", strings.Repeat("=", full), strings.Repeat(" ", barWidth-full))
	}
	fmt.Fprintf(&b, "%3d%%  %s of %s", percent, units.Size(p.done), units.Size(p.total))
	elapsed := now.Sub(p.began)
	if p.moved <= 0 || elapsed < minMeasured {
		return b.String()
	}
	rate := float64(p.moved) / elapsed.Seconds()
	fmt.Fprintf(&b, "  %s", units.Throughput(int64(rate)))
	if left := p.total - p.done; left > 0 {
		fmt.Fprintf(&b, "  %s left", (time.Duration(float64(left)/rate*float64(time.Second)) + time.Second/2).Truncate(time.Second))
	}
	return b.String()
}
