package waterfall

import (
	"encoding/xml"
	"fmt"
	"html"
	"io"
	"strings"
	"time"
)

// Sizes of the chart in pixels.
const (
	pictureWidth = 1200
	labelWidth   = 150
	rightMargin  = 20
	phaseHeight  = 18
	laneHeight   = 5
	maxLanes     = 60 // of requests, and of reads; what does not fit is drawn over the last
	headHeight   = 74
	gap          = 22
	ticks        = 8
)

// drawing is an SVG that grows downwards. Its axis goes from 0 to end, in whatever unit.
type drawing struct {
	out strings.Builder
	y   int
	end int64
}

// WriteSVG draws the start as a self-contained SVG. Tooltips show details.
func (s *Start) WriteSVG(w io.Writer) error {
	_, err := io.WriteString(w, s.svg())
	return err
}

// WriteHTML writes a page with the chart and all lines of the text.
func (s *Start) WriteHTML(w io.Writer) error {
	var text strings.Builder
	if err := s.WriteText(&text, true); err != nil {
		return err
	}
	return writePage(w, "Start of "+s.Image, s.svg(), text.String())
}

// writePage writes a page with a chart and a text.
func writePage(w io.Writer, title, svg, text string) error {
	_, err := fmt.Fprintf(w, "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>%s</title></head>\n<body>\n%s<pre>%s</pre>\n</body></html>\n",
		html.EscapeString(printable(title)), svg, html.EscapeString(text))
	return err
}

func (s *Start) svg() string {
	sum := s.Summarize()
	d := &drawing{end: max(int64(sum.End), 1), y: headHeight}
	d.title("pull and mount")
	for _, p := range s.Phases {
		d.during(p.At, p.Duration, d.y, phaseHeight-3, "#7b6ba8", fmt.Sprintf("%s: %s", p.Name, seconds(p.Duration)))
		d.text(labelWidth-8, d.y+phaseHeight-6, "end", p.Name)
		d.y += phaseHeight
	}
	d.y += gap
	d.title(fmt.Sprintf("requests to registries: %d", len(s.Requests)))
	var requests, waits lanes
	bottom := d.y
	for i := range s.Requests {
		r := &s.Requests[i]
		y := d.y + requests.place(r.At, r.Duration)*laneHeight
		d.during(r.At, r.FirstByte, y, laneHeight-1, "#c9c9c9", r.describe())
		d.during(r.At+r.FirstByte, r.Duration-r.FirstByte, y, laneHeight-1, "#3f7fbf", r.describe())
		bottom = max(bottom, y+laneHeight)
	}
	d.y = bottom + gap
	d.title(fmt.Sprintf("reads that waited: %d", sum.WaitedReads))
	bottom = d.y
	for i := range s.Reads {
		if r := &s.Reads[i]; r.Waited {
			y := d.y + waits.place(r.At, r.Duration)*laneHeight
			d.during(r.At, r.Duration, y, laneHeight-1, colour(r), r.describe())
			bottom = max(bottom, y+laneHeight)
		}
	}
	d.y = bottom + gap
	d.title(fmt.Sprintf("other reads: %d", sum.Reads-sum.WaitedReads))
	for i := range s.Reads {
		if r := &s.Reads[i]; !r.Waited {
			d.during(r.At, r.Duration, d.y, 10, colour(r), r.describe())
		}
	}
	d.y += 10 + gap
	return d.finish([]string{
		fmt.Sprintf("%s, %s", s.Image, s.Began.Format(time.RFC3339)),
		fmt.Sprintf("%d reads, %d waited, %s with one waiting; %d requests, %.1f MB in %s", sum.Reads, sum.WaitedReads, seconds(sum.WaitTime),
			sum.Requests, float64(sum.RequestBytes)/1e6, seconds(sum.TransferTime)),
	}, func(at int64) string { return seconds(time.Duration(at)) })
}

// finish returns the whole SVG, with lines at its head and an axis with labels.
func (d *drawing) finish(lines []string, label func(at int64) string) string {
	head := &drawing{end: d.end, y: d.y}
	fmt.Fprintf(&head.out, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="11">`+"\n", pictureWidth, d.y, pictureWidth, d.y)
	fmt.Fprintf(&head.out, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", pictureWidth, d.y)
	for i, line := range lines {
		head.text(8, 18+16*i, "start", line)
	}
	for i := range ticks + 1 {
		at := d.end / ticks * int64(i)
		fmt.Fprintf(&head.out, `<line x1="%.1f" y1="58" x2="%.1f" y2="%d" stroke="#dddddd"/>`+"\n", d.x(at), d.x(at), d.y)
		head.text(int(d.x(at)), 54, "middle", label(at))
	}
	return head.out.String() + d.out.String() + "</svg>\n"
}

func colour(r *Read) string {
	switch {
	case r.Failed:
		return "#000000"
	case r.Prefetched:
		return "#69b36b"
	case r.From == Registry:
		return "#d1495b"
	case r.From == Peers:
		return "#e08e2b"
	default:
		return "#b5d6b6"
	}
}

func (d *drawing) x(at int64) float64 {
	return labelWidth + (pictureWidth-labelWidth-rightMargin)*float64(at)/float64(d.end)
}

func (d *drawing) title(text string) {
	d.text(8, d.y-6, "start", text)
}

func (d *drawing) text(x, y int, anchor, text string) {
	fmt.Fprintf(&d.out, `<text x="%d" y="%d" text-anchor="%s">%s</text>`+"\n", x, y, anchor, escape(text))
}

// during draws what was going on for a time.
func (d *drawing) during(at, took time.Duration, y, height int, fill, title string) {
	d.box(int64(at), int64(took), y, height, fill, title)
}

func (d *drawing) box(at, length int64, y, height int, fill, title string) {
	fmt.Fprintf(&d.out, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"><title>%s</title></rect>`+"\n",
		d.x(at), y, max(0.5, d.x(at+length)-d.x(at)), height, fill, escape(title))
}

func escape(text string) string {
	var out strings.Builder
	_ = xml.EscapeText(&out, []byte(printable(text))) //nolint:errcheck // a Builder takes everything
	return out.String()
}

// lanes places bars so that they do not lie over each other.
type lanes struct{ ends []time.Duration }

func (l *lanes) place(at, took time.Duration) int {
	for i, end := range l.ends {
		if end <= at {
			l.ends[i] = at + took
			return i
		}
	}
	if len(l.ends) == maxLanes {
		return maxLanes - 1
	}
	l.ends = append(l.ends, at+took)
	return len(l.ends) - 1
}
