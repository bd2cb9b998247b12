package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// schema is the part of a JSON schema that says which objects are made of values.
type schema struct {
	Properties map[string]schema `json:"properties"`
}

// table has the values under one key.
type table struct {
	title, text string
	rows        []row
}

type row struct{ name, fallback, text string }

// render returns the tables of a values file. Values at the top come first; every other
// key at the top has a table of its own.
func render(values, schemaJSON []byte) (string, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(values, &document); err != nil {
		return "", fmt.Errorf("parsing values: %w", err)
	}
	var known schema
	if err := json.Unmarshal(schemaJSON, &known); err != nil {
		return "", fmt.Errorf("parsing the schema: %w", err)
	}
	if len(document.Content) != 1 || document.Content[0].Kind != yaml.MappingNode {
		return "", errors.New("values are not a mapping")
	}
	top := table{title: "General"}
	var sections []table
	err := each(document.Content[0], func(name, comment string, value *yaml.Node) error {
		if len(known.Properties[name].Properties) == 0 {
			return top.add(name, comment, value)
		}
		section := table{title: "`" + name + "`", text: comment}
		if err := section.walk(name, value, known.Properties[name]); err != nil {
			return err
		}
		sections = append(sections, section)
		return nil
	})
	if err != nil {
		return "", err
	}
	var out strings.Builder
	for _, t := range append([]table{top}, sections...) {
		t.write(&out)
	}
	return out.String(), nil
}

// each calls do for the keys of a mapping, in order.
func each(mapping *yaml.Node, do func(name, comment string, value *yaml.Node) error) error {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		key := mapping.Content[i]
		if err := do(key.Value, text(key.HeadComment), mapping.Content[i+1]); err != nil {
			return err
		}
	}
	return nil
}

// text makes one line of a comment. What stands above an empty line is about something else.
func text(comment string) string {
	if i := strings.LastIndex(comment, "\n\n"); i >= 0 {
		comment = comment[i+2:]
	}
	var words []string
	for line := range strings.Lines(comment) {
		words = append(words, strings.Fields(strings.TrimLeft(line, "#"))...)
	}
	return strings.Join(words, " ")
}

// walk adds the values in a mapping.
func (t *table) walk(path string, mapping *yaml.Node, known schema) error {
	return each(mapping, func(name, comment string, value *yaml.Node) error {
		inner := known.Properties[name]
		if value.Kind == yaml.MappingNode && len(inner.Properties) > 0 {
			return t.walk(path+"."+name, value, inner)
		}
		return t.add(path+"."+name, comment, value)
	})
}

// add adds one value. Who adds one to a chart is to say what it means.
func (t *table) add(name, comment string, value *yaml.Node) error {
	if comment == "" {
		return fmt.Errorf("value %s has no comment above it", name)
	}
	fallback, err := compact(value)
	if err != nil {
		return fmt.Errorf("value %s: %w", name, err)
	}
	t.rows = append(t.rows, row{name, fallback, comment})
	return nil
}

// compact returns a value as one line of JSON.
func compact(value *yaml.Node) (string, error) {
	var decoded any
	if err := value.Decode(&decoded); err != nil {
		return "", err
	}
	content, err := json.Marshal(decoded)
	return string(content), err
}

func (t *table) write(out *strings.Builder) {
	if len(t.rows) == 0 {
		return
	}
	fmt.Fprintf(out, "### %s\n\n", t.title)
	if t.text != "" {
		fmt.Fprintf(out, "%s\n\n", t.text)
	}
	out.WriteString("| value | default | meaning |\n| --- | --- | --- |\n")
	for _, r := range t.rows {
		fmt.Fprintf(out, "| `%s` | `%s` | %s |\n", r.name, cell(r.fallback), cell(r.text))
	}
	out.WriteString("\n")
}

// cell keeps text from ending its cell.
func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
