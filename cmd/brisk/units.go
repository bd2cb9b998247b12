package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// byteSize is a flag value in bytes: a number with an optional unit, k, M, G or T
// for powers of 1000 and Ki, Mi, Gi or Ti for powers of 1024.
type byteSize int64

// String implements pflag.Value.
func (s *byteSize) String() string {
	value := int64(*s)
	for _, unit := range []struct {
		name  string
		bytes int64
	}{{"Ti", 1 << 40}, {"Gi", 1 << 30}, {"Mi", 1 << 20}, {"Ki", 1 << 10}} {
		if value >= unit.bytes && value%unit.bytes == 0 {
			return strconv.FormatInt(value/unit.bytes, 10) + unit.name
		}
	}
	return strconv.FormatInt(value, 10)
}

// Set implements pflag.Value.
func (s *byteSize) Set(text string) error {
	value, err := parseUnits(text, map[string]float64{
		"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40,
	}, "B")
	*s = byteSize(value)
	return err
}

// Type implements pflag.Value.
func (*byteSize) Type() string { return "size" }

// bitRate is a flag value in bits a second: a number with an optional unit, kbit,
// Mbit or Gbit.
type bitRate int64

// String implements pflag.Value.
func (r *bitRate) String() string { return fmt.Sprintf("%gMbit", float64(*r)/1e6) }

// Set implements pflag.Value.
func (r *bitRate) Set(text string) error {
	value, err := parseUnits(text, map[string]float64{"": 1, "kbit": 1e3, "Mbit": 1e6, "Gbit": 1e9}, "/s")
	*r = bitRate(value)
	return err
}

// Type implements pflag.Value.
func (*bitRate) Type() string { return "rate" }

// parseUnits reads a number and a unit, which may be followed by suffix.
func parseUnits(text string, units map[string]float64, suffix string) (int64, error) {
	trimmed := strings.TrimSuffix(strings.TrimSpace(text), suffix)
	end := strings.LastIndexAny(trimmed, "0123456789.") + 1
	number, err := strconv.ParseFloat(trimmed[:end], 64)
	unit, known := units[strings.TrimSpace(trimmed[end:])]
	value := number * unit
	if err != nil || !known || number < 0 || value > math.MaxInt64/2 {
		return 0, fmt.Errorf("%q is not a number with a unit such as %q", text, anyUnit(units))
	}
	return int64(value), nil
}

func anyUnit(units map[string]float64) string {
	for name, factor := range units {
		if factor == 1e6 {
			return "5" + name
		}
	}
	return "5"
}
