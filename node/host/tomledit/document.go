package tomledit

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// Document is a TOML document. The zero value is an empty one. It is not safe for
// concurrent use.
type Document struct {
	text   []byte
	values map[string]any
}

// Parse parses a document.
func Parse(text []byte) (*Document, error) {
	values, err := decode(text)
	if err != nil {
		return nil, err
	}
	return &Document{text: slices.Clone(text), values: values}, nil
}

func decode(text []byte) (map[string]any, error) {
	values := make(map[string]any)
	if err := toml.Unmarshal(text, &values); err != nil {
		return nil, fmt.Errorf("parsing TOML: %w", err)
	}
	return values, nil
}

// Bytes returns the text of the document.
func (d *Document) Bytes() []byte { return slices.Clone(d.text) }

// Get returns the value at a path of keys.
func (d *Document) Get(path ...string) (any, bool) { return lookup(d.values, path) }

func lookup(values map[string]any, path []string) (any, bool) {
	for i, key := range path {
		value, ok := values[key]
		if !ok {
			return nil, false
		}
		if i == len(path)-1 {
			return value, true
		}
		if values, ok = value.(map[string]any); !ok {
			return nil, false
		}
	}
	return values, true
}

// Set puts a value, which must not be a table, at a path of keys. Tables on the way are
// made.
func (d *Document) Set(value any, path ...string) error {
	wanted := clone(d.values)
	if err := assign(wanted, value, path); err != nil {
		return err
	}
	encoded, err := encodeValue(value)
	if err != nil {
		return err
	}
	return d.become(wanted, func() ([]byte, error) { return d.setText(encoded, path) })
}

// Delete removes what is at a path of keys, be it a value or a table. Tables above it
// are removed too if nothing else is in them. What is not there needs no removing.
func (d *Document) Delete(path ...string) error {
	if _, ok := d.Get(path...); !ok {
		return nil
	}
	wanted := clone(d.values)
	remove(wanted, path)
	return d.become(wanted, func() ([]byte, error) { return d.deleteText(path, wanted) })
}

// become changes the text by edit, or writes it again if that comes to something else.
func (d *Document) become(wanted map[string]any, edit func() ([]byte, error)) error {
	text, err := edit()
	if err == nil {
		if got, err := decode(text); err == nil && equal(got, wanted) {
			d.text, d.values = text, got
			return nil
		}
	}
	if text, err = toml.Marshal(wanted); err != nil {
		return fmt.Errorf("writing TOML: %w", err)
	}
	got, err := decode(text)
	if err != nil {
		return err
	}
	if !equal(got, wanted) {
		return errors.New("writing TOML: there is no text for these values")
	}
	d.text, d.values = text, got
	return nil
}

// equal compares values; what is printed alike is alike, which holds for NaN as well.
func equal(a, b map[string]any) bool {
	return reflect.DeepEqual(a, b) || fmt.Sprintf("%#v", a) == fmt.Sprintf("%#v", b)
}

func clone(values map[string]any) map[string]any {
	made := make(map[string]any, len(values))
	for key, value := range values {
		if table, ok := value.(map[string]any); ok {
			value = clone(table)
		}
		made[key] = value
	}
	return made
}

func assign(values map[string]any, value any, path []string) error {
	for i, key := range path[:len(path)-1] {
		next, ok := values[key]
		if !ok {
			next = make(map[string]any)
			values[key] = next
		}
		if values, ok = next.(map[string]any); !ok {
			return fmt.Errorf("%s is not a table", strings.Join(path[:i+1], "."))
		}
	}
	last := path[len(path)-1]
	if _, ok := values[last].(map[string]any); ok {
		return fmt.Errorf("%s is a table", strings.Join(path, "."))
	}
	normal, err := normalise(value)
	if err != nil {
		return err
	}
	values[last] = normal
	return nil
}

// normalise returns a value as the parser would.
func normalise(value any) (any, error) {
	text, err := toml.Marshal(map[string]any{"v": value})
	if err != nil {
		return nil, fmt.Errorf("writing TOML: %w", err)
	}
	values, err := decode(text)
	return values["v"], err
}

// remove removes a path, and then the tables above it that became empty.
func remove(values map[string]any, path []string) {
	if len(path) > 1 {
		table, ok := values[path[0]].(map[string]any)
		if !ok {
			return
		}
		remove(table, path[1:])
		if len(table) > 0 {
			return
		}
	}
	delete(values, path[0])
}

// encodeValue returns the text of a value on a single line.
func encodeValue(value any) (string, error) {
	text, err := toml.Marshal(map[string]any{"v": value})
	if err != nil {
		return "", fmt.Errorf("writing TOML: %w", err)
	}
	return strings.TrimSuffix(strings.TrimPrefix(string(text), "v = "), "\n"), nil
}

// encodeKeys returns the text of a path of keys.
func encodeKeys(path []string) string {
	var quoted []string
	for _, key := range path {
		text, err := toml.Marshal(map[string]any{key: 0})
		if err != nil {
			return "" // which no document becomes right by
		}
		quoted = append(quoted, strings.TrimSuffix(string(text), " = 0\n"))
	}
	return strings.Join(quoted, ".")
}
