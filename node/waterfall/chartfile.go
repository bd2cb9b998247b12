package waterfall

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Chart is data that can be drawn: [Start] and [ReadOrder].
type Chart interface {
	WriteSVG(w io.Writer) error
	WriteHTML(w io.Writer) error
}

// CheckChartName returns an error if a chart cannot be written to a file of this name.
func CheckChartName(path string) error {
	switch filepath.Ext(path) {
	case ".svg", ".html":
		return nil
	default:
		return fmt.Errorf("drawing to %s: the name ends neither with .svg nor with .html", path)
	}
}

// WriteChart writes a chart to a file, in the format of its name suffix.
func WriteChart(path string, p Chart) error {
	if err := CheckChartName(path); err != nil {
		return err
	}
	draw := p.WriteSVG
	if filepath.Ext(path) == ".html" {
		draw = p.WriteHTML
	}
	// It has names of images and files.
	file, err := os.OpenFile(filepath.Clean(path), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("drawing a start: %w", err)
	}
	if err := errors.Join(draw(file), file.Close()); err != nil {
		return fmt.Errorf("drawing a start: %w", err)
	}
	return nil
}
