package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/printers"

	"github.com/brisk-project/brisk/internal/cli"
)

// The formats that results are printed in.
const (
	formatTable = "table"
	formatJSON  = "json"
)

// options are the flags of every command.
type options struct {
	*genericclioptions.ConfigFlags

	format string
}

func newRootCommand() *cobra.Command {
	opts := &options{ConfigFlags: genericclioptions.NewConfigFlags(true)}
	root := &cobra.Command{
		Use:           "kubectl-brisk",
		Short:         "Where images are warm, and why pods go where they go",
		SilenceUsage:  true,
		SilenceErrors: true,
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl brisk"},
	}
	flags := root.PersistentFlags()
	opts.AddFlags(flags)
	flags.StringVarP(&opts.format, "output", "o", formatTable, "table or json")
	root.AddCommand(opts.newNodesCommand(), opts.newImagesCommand(), opts.newWhyCommand(), opts.newTopCommand())
	cli.AddVersion(root, nil)
	return root
}

// table is what a command prints: as JSON the rows as they are, else one line each.
type table[R any] struct {
	header string
	rows   []R
	line   func(R) []string
	// above is printed over the table, empty without it.
	above string
}

func (t table[R]) print(w io.Writer, format string) error {
	switch format {
	case formatJSON:
		return printJSON(w, map[string]any{"items": append([]R{}, t.rows...)})
	case formatTable:
	default:
		return fmt.Errorf("output format %q is neither table nor json", format)
	}
	if _, err := io.WriteString(w, t.above); err != nil {
		return err
	}
	if len(t.rows) == 0 {
		_, err := io.WriteString(w, "Nothing found: no node agent has reported.\n")
		return err
	}
	lines := []string{strings.Join(strings.Fields(t.header), "\t")}
	for _, row := range t.rows {
		lines = append(lines, strings.Join(t.line(row), "\t"))
	}
	writer := printers.GetNewTabWriter(w)
	_, err := io.WriteString(writer, strings.Join(lines, "\n")+"\n")
	return errors.Join(err, writer.Flush())
}

func printJSON(w io.Writer, value any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}
