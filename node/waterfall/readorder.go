package waterfall

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/brisk-project/brisk/image/startup/files"
	"github.com/brisk-project/brisk/internal/units"
)

// ReadOrder lists the reads of a trace in the order of the first read. A trace has no times,
// because times depend on the machine and the link; so the axis is the number of bytes read
// before.
type ReadOrder struct {
	Image       string
	Description string // one line
	Reads       []OrderedRead
}

// OrderedRead is a span of a trace. Sizes and positions are in bytes.
type OrderedRead struct {
	// Layer is the number of the layer from the bottom one, 0, on; -1 for a layer that the image
	// does not have.
	Layer  int   `json:"layer"`
	Offset int64 `json:"offset"` // in the layer stream
	Length int64 `json:"length"`
	// File is the file with most of the span, FileOffset its position there; empty if no file
	// contains it.
	File       string `json:"file,omitempty"`
	FileOffset int64  `json:"position,omitempty"`
}

// NewOrderedReads returns the reads of a trace.
func NewOrderedReads(reads []files.LayerRead) []OrderedRead {
	ordered := make([]OrderedRead, len(reads))
	for i, r := range reads {
		path, position := r.Index.Locate(r.Offset, r.Length)
		ordered[i] = OrderedRead{Layer: r.LayerNumber, Offset: r.Offset, Length: r.Length, File: path, FileOffset: position}
	}
	return ordered
}

func (o *ReadOrder) bytes() (total int64) {
	for _, r := range o.Reads {
		total += r.Length
	}
	return total
}

func (r *OrderedRead) describe() string {
	what := "between files"
	switch {
	case r.File != "":
		what = fmt.Sprintf("/%s at %d", r.File, r.FileOffset)
	case r.Layer < 0:
		what = "of another image"
	}
	return printable(fmt.Sprintf("%s (%s, layer %d at %d)", what, units.Size(r.Length), r.Layer, r.Offset))
}

// WriteText writes one line for each read.
func (o *ReadOrder) WriteText(w io.Writer) error {
	var text strings.Builder
	total, before := o.bytes(), int64(0)
	end := units.Size(total)
	fmt.Fprintf(&text, "%6s %10s  |0 B%*s| \n", "order", "after", barWidth-3, end)
	for i := range o.Reads {
		r := &o.Reads[i]
		fmt.Fprintf(&text, "%6d %10s  |%s| %s\n", i+1, units.Size(before), bar(before, r.Length, total), r.describe())
		before += r.Length
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// WriteSVG draws the trace as a self-contained SVG, with a row for each layer. Tooltips show
// details.
func (o *ReadOrder) WriteSVG(w io.Writer) error {
	_, err := io.WriteString(w, o.svg())
	return err
}

// WriteHTML writes a page with the chart and the text.
func (o *ReadOrder) WriteHTML(w io.Writer) error {
	var text strings.Builder
	if err := o.WriteText(&text); err != nil {
		return err
	}
	return writePage(w, "Trace of "+o.Image, o.svg(), text.String())
}

func (o *ReadOrder) svg() string {
	var layers []int
	for _, r := range o.Reads {
		if !slices.Contains(layers, r.Layer) {
			layers = append(layers, r.Layer)
		}
	}
	slices.Sort(layers)
	d := &drawing{end: max(o.bytes(), 1), y: headHeight}
	for _, layer := range layers {
		label := fmt.Sprintf("layer %d", layer)
		if layer < 0 {
			label = "other images"
		}
		d.text(labelWidth-8, d.y+phaseHeight-6, "end", label)
		before, last := int64(0), ""
		colours, colour := []string{"#3f7fbf", "#7fb0df"}, 0
		for i := range o.Reads {
			r := &o.Reads[i]
			if r.Layer == layer {
				if r.File != last {
					colour, last = 1-colour, r.File
				}
				d.box(before, r.Length, d.y, phaseHeight-3, colours[colour], r.describe())
			}
			before += r.Length
		}
		d.y += phaseHeight
	}
	d.y += gap
	return d.finish([]string{o.Image, fmt.Sprintf("%s; %s in %d reads, in the order of the first read", o.Description, units.Size(o.bytes()), len(o.Reads))}, units.Size)
}
