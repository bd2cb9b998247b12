package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxFile bounds a configuration file in bytes.
const maxFile = 1 << 20

// Load reads a file. The result is valid.
func Load(path string) (Config, error) {
	cfg, err := read(path)
	if err != nil {
		return Config{}, fmt.Errorf("reading the configuration %s: %w", path, err)
	}
	return cfg, nil
}

func read(path string) (Config, error) {
	file, err := os.Open(path)
	if err != nil {
		return Config{}, err
	}
	defer file.Close() //nolint:errcheck // read only
	content, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return Config{}, err
	}
	return Parse(content)
}

// Parse reads the content of a file. The result is valid.
func Parse(content []byte) (Config, error) {
	if len(content) > maxFile {
		return Config{}, fmt.Errorf("it is longer than %d bytes", maxFile)
	}
	cfg := Default()
	cfg.APIVersion, cfg.Kind = "", ""
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	decoder.KnownFields(true)
	if err := decoder.Decode(&cfg); err != nil && !errors.Is(err, io.EOF) {
		return Config{}, explain(err, content)
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return Config{}, errors.New("there is more than one document in it")
	}
	cfg.fillLists()
	return cfg, cfg.Validate()
}

// fillLists makes lists that are there but null the empty ones that they are.
func (c *Config) fillLists() {
	lists := []*[]string{&c.Index.Keys, &c.Registry.PlainHTTP, &c.Peers.Listen, &c.Peers.Members}
	for i := range c.Index.Rules {
		lists = append(lists, &c.Index.Rules[i].Repositories, &c.Index.Rules[i].Keys)
	}
	if c.Index.Rules == nil {
		c.Index.Rules = []TrustRule{}
	}
	for _, list := range lists {
		if *list == nil {
			*list = []string{}
		}
	}
}

// valueError says what is wrong with a value that is somewhere in a file.
type valueError struct {
	node *yaml.Node
	err  error
}

// Error implements error.
func (e *valueError) Error() string { return fmt.Sprintf("line %d: %v", e.node.Line, e.err) }

// Unwrap returns what is wrong.
func (e *valueError) Unwrap() error { return e.err }

// explain adds the name of the field to an error, as far as it is missing.
func explain(err error, content []byte) error {
	if mistyped, ok := errors.AsType[*yaml.TypeError](err); ok {
		return errors.New(strings.Join(mistyped.Errors, "\n"))
	}
	value, ok := errors.AsType[*valueError](err)
	if !ok {
		return errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	var document yaml.Node
	if yaml.Unmarshal(content, &document) != nil || len(document.Content) != 1 {
		return err
	}
	return fmt.Errorf("line %d: %s: %w", value.node.Line, pathOf(document.Content[0], value.node), value.err)
}

// pathOf returns the path of fields to a node that is at the same place.
func pathOf(within, wanted *yaml.Node) string {
	if within.Kind != yaml.MappingNode {
		return ""
	}
	for i := 0; i+1 < len(within.Content); i += 2 {
		key, value := within.Content[i], within.Content[i+1]
		if value.Line == wanted.Line && value.Column == wanted.Column {
			return key.Value
		}
		if path := pathOf(value, wanted); path != "" {
			return key.Value + "." + path
		}
	}
	return ""
}

// Marshal returns a configuration as the content of a file.
func (c *Config) Marshal() ([]byte, error) {
	var buf bytes.Buffer
	encoder := yaml.NewEncoder(&buf)
	encoder.SetIndent(2)
	err := encoder.Encode(c)
	if err == nil {
		err = encoder.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("encoding the configuration: %w", err)
	}
	return buf.Bytes(), nil
}
