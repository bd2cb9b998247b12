// Command chartvalues writes tables of the values of a chart into a Markdown page, between
// the lines "<!-- values -->" and "<!-- end of values -->". Names and defaults are those of
// values.yaml, and meanings the comments there; values.schema.json says which mappings are
// made of values and which are one value. "make generate" runs it.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const (
	begin = "<!-- values -->\n"
	end   = "<!-- end of values -->\n"
)

func main() {
	chart := flag.String("chart", "", "directory of the chart")
	page := flag.String("page", "", "Markdown file to write the tables into")
	flag.Parse()
	if err := run(*chart, *page); err != nil {
		fmt.Fprintln(os.Stderr, "chartvalues:", err)
		os.Exit(1) //nolint:forbidigo // this is main
	}
}

func run(chart, page string) error {
	values, err := os.ReadFile(filepath.Join(chart, "values.yaml"))
	if err != nil {
		return fmt.Errorf("reading values: %w", err)
	}
	schema, err := os.ReadFile(filepath.Join(chart, "values.schema.json"))
	if err != nil {
		return fmt.Errorf("reading the schema: %w", err)
	}
	tables, err := render(values, schema)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(page)
	if err != nil {
		return fmt.Errorf("reading the page: %w", err)
	}
	replaced, err := replace(string(content), tables)
	if err != nil {
		return fmt.Errorf("%s: %w", page, err)
	}
	if err := os.WriteFile(page, []byte(replaced), 0o644); err != nil { //nolint:gosec // documentation
		return fmt.Errorf("writing the page: %w", err)
	}
	return nil
}

// replace puts tables between the marks of a page.
func replace(page, tables string) (string, error) {
	before, rest, found := strings.Cut(page, begin)
	if !found {
		return "", errors.New("there is no line " + strings.TrimSpace(begin))
	}
	_, after, found := strings.Cut(rest, end)
	if !found {
		return "", errors.New("there is no line " + strings.TrimSpace(end))
	}
	return before + begin + "\n" + tables + end + after, nil
}
