package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Size is a number of bytes. As text it is a whole number with an optional unit: Ki,
// Mi, Gi, Ti (powers of 1024) or k, M, G, T (powers of 1000).
type Size int64

// unit is a suffix of a [Size] and what it multiplies by.
type unit struct {
	suffix string
	bytes  int64
}

// units returns all units, the binary ones first and the largest before the smaller.
func units() []unit {
	return []unit{
		{"Ti", 1 << 40},
		{"Gi", 1 << 30},
		{"Mi", 1 << 20},
		{"Ki", 1 << 10},
		{"T", 1e12},
		{"G", 1e9},
		{"M", 1e6},
		{"k", 1e3},
	}
}

var errSize = errors.New("is not a size such as 512Mi or 20Gi")

// ParseSize reads a size.
func ParseSize(text string) (Size, error) {
	digits, factor := text, int64(1)
	for _, u := range units() {
		if before, ok := strings.CutSuffix(text, u.suffix); ok {
			digits, factor = before, u.bytes
			break
		}
	}
	number, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || number > uint64(math.MaxInt64/factor) {
		return 0, fmt.Errorf("%.40q %w", text, errSize)
	}
	return Size(int64(number) * factor), nil
}

// FormatSize returns the shortest text that [ParseSize] reads as the same size.
func FormatSize(s Size) string {
	if s > 0 {
		for _, u := range units() {
			if int64(s)%u.bytes == 0 {
				return strconv.FormatInt(int64(s)/u.bytes, 10) + u.suffix
			}
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// MarshalText implements encoding.TextMarshaler.
func (s Size) MarshalText() ([]byte, error) { return []byte(FormatSize(s)), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Size) UnmarshalText(text []byte) (err error) {
	*s, err = ParseSize(string(text))
	return err
}

// UnmarshalYAML implements the interface of the YAML library.
func (s *Size) UnmarshalYAML(node *yaml.Node) error {
	if err := s.UnmarshalText([]byte(node.Value)); err != nil {
		return &valueError{node, err}
	}
	return nil
}

// Duration is a time span. As text it is what [time.ParseDuration] reads, such as 30s.
type Duration time.Duration

// FormatDuration returns the shortest text that is read as the same duration.
func FormatDuration(d Duration) string {
	text := time.Duration(d).String()
	// 1h0m0s says no more than 1h.
	if short, ok := strings.CutSuffix(text, "m0s"); ok {
		text = short + "m"
	}
	if short, ok := strings.CutSuffix(text, "h0m"); ok {
		text = short + "h"
	}
	return text
}

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(FormatDuration(d)), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%.40q is not a duration such as 500ms or 30s", text)
	}
	*d = Duration(parsed)
	return nil
}

// UnmarshalYAML implements the interface of the YAML library.
func (d *Duration) UnmarshalYAML(node *yaml.Node) error {
	if err := d.UnmarshalText([]byte(node.Value)); err != nil {
		return &valueError{node, err}
	}
	return nil
}
