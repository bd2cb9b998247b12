package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// The formats that results are printed in.
const (
	Text = "table"
	JSON = "json"
	YAML = "yaml"
)

// AddFormat adds the flag for the format of what is printed.
func AddFormat(cmd *cobra.Command, format *string) {
	formats := []string{Text, JSON, YAML}
	cmd.Flags().StringVarP(format, "output", "o", Text, "format: table, json or yaml")
	//nolint:errcheck,gosec // fails without that flag only
	cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
}

// CheckFormat says whether a format is known, before any work is done for it.
func CheckFormat(format string) error {
	if !slices.Contains([]string{Text, JSON, YAML}, format) {
		return fmt.Errorf("--output is %q, not table, json or yaml", format)
	}
	return nil
}

// Print prints a result in a format; text prints it for people.
func Print(w io.Writer, format string, result any, text func(io.Writer) error) error {
	if err := CheckFormat(format); err != nil {
		return err
	}
	if format == Text {
		return text(w)
	}
	content, err := json.MarshalIndent(result, "", "  ")
	if err == nil && format == YAML {
		content, err = toYAML(content)
	}
	if err != nil {
		return fmt.Errorf("encoding the result: %w", err)
	}
	if _, err := w.Write(append(content, '\n')); err != nil {
		return fmt.Errorf("printing: %w", err)
	}
	return nil
}

// toYAML writes JSON as YAML, with the same fields in the same order.
func toYAML(content []byte) ([]byte, error) {
	var node yaml.Node
	if err := yaml.Unmarshal(content, &node); err != nil { // JSON is YAML
		return nil, err
	}
	unfold(&node)
	var text strings.Builder
	encoder := yaml.NewEncoder(&text)
	encoder.SetIndent(2)
	err := errors.Join(encoder.Encode(&node), encoder.Close())
	return []byte(strings.TrimSuffix(text.String(), "\n")), err
}

// unfold removes the style of JSON, down to quotes that are not needed, even by readers of
// old YAML, to which some words are booleans.
func unfold(node *yaml.Node) {
	if !slices.Contains([]string{"y", "n", "yes", "no", "on", "off"}, strings.ToLower(node.Value)) {
		node.Style = 0
	}
	for _, child := range node.Content {
		unfold(child)
	}
}

// Table lines cells up in columns.
type Table struct {
	w     *tabwriter.Writer
	right bool
	err   error
}

// NewTable returns a table whose cells begin below each other.
func NewTable(w io.Writer) *Table { return &Table{w: tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)} }

// NewNumericTable returns a table with right-aligned cells.
func NewNumericTable(w io.Writer) *Table {
	return &Table{w: tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.AlignRight), right: true}
}

// Row adds a row.
func (t *Table) Row(cells ...string) {
	line := strings.Join(cells, "\t")
	if t.right {
		line += "\t"
	}
	_, err := io.WriteString(t.w, line+"\n")
	t.err = errors.Join(t.err, err)
}

// Flush prints the table.
func (t *Table) Flush() error {
	if err := errors.Join(t.err, t.w.Flush()); err != nil {
		return fmt.Errorf("printing the table: %w", err)
	}
	return nil
}
