// Package units reads and writes sizes and rates the same way everywhere: sizes in bytes
// with binary units (KiB, MiB, GiB, TiB), rates of links in bits a second with decimal
// ones (kbit/s, Mbit/s, Gbit/s), as their makers count them.
package units

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// unit is a suffix and what it multiplies by.
type unit struct {
	suffix string
	factor int64
}

// sizes returns the units that sizes are read with, the binary ones first and the larger
// before the smaller.
func sizes() []unit {
	return []unit{
		{"Ti", 1 << 40},
		{"Gi", 1 << 30},
		{"Mi", 1 << 20},
		{"Ki", 1 << 10},
		{"T", 1e12},
		{"G", 1e9},
		{"M", 1e6},
		{"k", 1e3},
		{"", 1},
	}
}

// rates returns the units that rates are read with.
func rates() []unit {
	return []unit{{"Gbit", 1e9}, {"Mbit", 1e6}, {"kbit", 1e3}, {"", 1}}
}

var (
	errSize = errors.New("is not a size such as 512Mi or 20Gi")
	errRate = errors.New("is not a rate such as 200Mbit")
)

// ParseSize reads a number of bytes with an optional unit: Ki, Mi, Gi, Ti (powers of
// 1024) or k, M, G, T (powers of 1000), which may be followed by B.
func ParseSize(text string) (int64, error) {
	value, ok := parse(strings.TrimSuffix(text, "B"), sizes())
	if !ok {
		return 0, fmt.Errorf("%.40q %w", text, errSize)
	}
	return value, nil
}

// ExactSize returns a text without a fraction that [ParseSize] reads as the same size, in
// binary units where that can be.
func ExactSize(bytes int64) string {
	if bytes > 0 {
		for _, u := range sizes() {
			if bytes%u.factor == 0 {
				return strconv.FormatInt(bytes/u.factor, 10) + u.suffix
			}
		}
	}
	return strconv.FormatInt(bytes, 10)
}

// ParseRate reads a number of bits a second with an optional unit, kbit, Mbit or Gbit,
// which may be followed by /s.
func ParseRate(text string) (int64, error) {
	value, ok := parse(strings.TrimSuffix(text, "/s"), rates())
	if !ok {
		return 0, fmt.Errorf("%.40q %w", text, errRate)
	}
	return value, nil
}

// parse reads a number and a unit. Whole numbers are read exactly.
func parse(text string, known []unit) (int64, bool) {
	text = strings.TrimSpace(text)
	end := strings.LastIndexAny(text, "0123456789.") + 1
	suffix := strings.TrimSpace(text[end:])
	for _, u := range known {
		if u.suffix != suffix {
			continue
		}
		if whole, err := strconv.ParseUint(text[:end], 10, 63); err == nil {
			return int64(whole) * u.factor, whole <= uint64(math.MaxInt64/u.factor)
		}
		number, err := strconv.ParseFloat(text[:end], 64)
		value := number * float64(u.factor)
		return int64(value), err == nil && value >= 0 && value <= math.MaxInt64/2 && !strings.ContainsAny(text[:end], "xXpPeE_+-")
	}
	return 0, false
}

// Size writes a number of bytes for people, with up to four digits: 0 B, 512 B, 1.5 KiB,
// 114 MiB.
func Size(bytes int64) string {
	const base = 1024
	value, names := float64(bytes), []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	for i, name := range names {
		switch {
		case math.Abs(value) >= base-0.5 && i < len(names)-1:
			value /= base
		case i == 0:
			return strconv.FormatInt(bytes, 10) + " B"
		case math.Abs(value) >= 99.95:
			return fmt.Sprintf("%.0f %s", value, name)
		default:
			return fmt.Sprintf("%.1f %s", value, name)
		}
	}
	return "" // not reached: the last name takes any value
}

// Throughput writes how many bytes of content came in a second. 0 is not known: a dash.
func Throughput(bytesPerSecond int64) string {
	if bytesPerSecond <= 0 {
		return "-"
	}
	return Size(bytesPerSecond) + "/s"
}

// Rate writes the rate of a link.
func Rate(bitsPerSecond int64) string {
	return fmt.Sprintf("%g Mbit/s", float64(bitsPerSecond)/1e6)
}
