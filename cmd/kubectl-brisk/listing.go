package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/liggitt/tabwriter"
	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/printers"

	"github.com/brisk-project/brisk/internal/cli"
	"github.com/brisk-project/brisk/scheduler/clusterview"
)

// The formats that only kubectl has.
const (
	formatWide = "wide"
	formatName = "name"
)

func formats() []string { return []string{cli.Text, formatWide, cli.JSON, cli.YAML, formatName} }

// list is the document of several rows.
type list[R any] struct {
	clusterview.Document

	Items []R `json:"items"`
}

// column is one of a table.
type column[R any] struct {
	header string
	wide   bool // is printed with -o wide only
	text   func(R) string
}

// listing is how the rows of a command are found and printed.
type listing[R any] struct {
	kind    string // of the document with all rows
	columns []column[R]
	rows    func(*clusterview.View) []R
	// name is that of the object that a row is about, as kubectl takes it.
	name func(R) string

	// id tells the rows apart, and steady takes from a row what changes by itself. gone
	// makes a row say that it is no longer. They are needed to watch.
	id     func(R) string
	steady func(R) R
	gone   func(R) R
}

// run prints the rows, and with --watch what changes of them, until ctx ends.
func (l listing[R]) run(ctx context.Context, o *options, w io.Writer) error {
	if err := o.checkFormat(); err != nil {
		return err
	}
	clients, err := o.connect()
	if err != nil {
		return err
	}
	c, err := clients.Load(ctx)
	if err != nil {
		return err
	}
	p := &printer[R]{listing: l, w: w, format: o.format}
	if o.watch {
		return watch(ctx, clients, c, p)
	}
	return p.all(l.rows(c))
}

func (o *options) checkFormat() error {
	if !slices.Contains(formats(), o.format) {
		return fmt.Errorf("--output is %q, not one of %s", o.format, strings.Join(formats(), ", "))
	}
	return nil
}

// newListCommand returns a command that lists, and watches.
func (o *options) newListCommand(use, short, long string, args cobra.PositionalArgs, run func(*cobra.Command, []string) error) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Long: long, Args: args, RunE: run}
	cmd.Flags().BoolVarP(&o.watch, "watch", "w", false, "keep running and print changed rows")
	return cmd
}

// printer prints rows in a format.
type printer[R any] struct {
	listing[R]

	w      io.Writer
	format string
	table  *tabwriter.Writer // once its header is printed
	more   bool              // a document has been printed
}

// all prints all rows there are.
func (p *printer[R]) all(rows []R) error {
	switch p.format {
	case cli.JSON, cli.YAML:
		return p.document(list[R]{clusterview.Document{APIVersion: clusterview.APIVersion, Kind: p.kind}, append([]R{}, rows...)})
	case formatName:
		return p.some(rows)
	}
	if len(rows) == 0 {
		_, err := io.WriteString(p.w, "Nothing found: no node agent has reported.\n")
		return err
	}
	return p.some(rows)
}

// some prints rows below those printed before.
func (p *printer[R]) some(rows []R) error {
	var text strings.Builder
	for _, row := range rows {
		switch p.format {
		case cli.JSON, cli.YAML:
			if err := p.document(row); err != nil {
				return err
			}
		case formatName:
			text.WriteString(p.name(row) + "\n")
		default:
			p.line(&text, func(c column[R]) string { return c.text(row) })
		}
	}
	if p.format != cli.Text && p.format != formatWide || len(rows) == 0 {
		_, err := io.WriteString(p.w, text.String())
		return err
	}
	if p.table == nil {
		var header strings.Builder
		p.line(&header, func(c column[R]) string { return c.header })
		p.table = printers.GetNewTabWriter(p.w)
		if _, err := io.WriteString(p.table, header.String()); err != nil {
			return err
		}
	}
	_, err := io.WriteString(p.table, text.String())
	return errors.Join(err, p.table.Flush())
}

// line writes one line of a table.
func (p *printer[R]) line(to *strings.Builder, cell func(column[R]) string) {
	var cells []string
	for _, c := range p.columns {
		if !c.wide || p.format == formatWide {
			cells = append(cells, cell(c))
		}
	}
	to.WriteString(strings.Join(cells, "\t") + "\n")
}

// document prints one document, apart from the one before.
func (p *printer[R]) document(value any) error {
	if p.more && p.format == cli.YAML {
		if _, err := io.WriteString(p.w, "---\n"); err != nil {
			return err
		}
	}
	p.more = true
	return cli.Print(p.w, p.format, value, nil)
}
