package waterfall

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Picture can be drawn. [Start] and [Order] can.
type Picture interface {
	WriteSVG(w io.Writer) error
	WriteHTML(w io.Writer) error
}

// CheckDrawing reports what is wrong with the name of a file for a picture.
func CheckDrawing(path string) error {
	switch filepath.Ext(path) {
	case ".svg", ".html":
		return nil
	default:
		return fmt.Errorf("drawing to %s: the name ends neither with .svg nor with .html", path)
	}
}

// Draw writes a picture to a file, in the form that its name ends with.
func Draw(path string, p Picture) error {
	if err := CheckDrawing(path); err != nil {
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
