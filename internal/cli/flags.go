package cli

import (
	"strings"

	"github.com/brisk-project/brisk/internal/units"
)

// Size is a flag value in bytes: see [units.ParseSize].
type Size int64

// String implements pflag.Value.
func (s *Size) String() string { return units.ExactSize(int64(*s)) }

// Set implements pflag.Value.
func (s *Size) Set(text string) error {
	size, err := units.ParseSize(text)
	*s = Size(size)
	return err
}

// Type implements pflag.Value.
func (*Size) Type() string { return "size" }

// Rate is a flag value in bits a second: see [units.ParseRate].
type Rate int64

// String implements pflag.Value.
func (r *Rate) String() string {
	return strings.ReplaceAll(strings.TrimSuffix(units.Rate(int64(*r)), "/s"), " ", "")
}

// Set implements pflag.Value.
func (r *Rate) Set(text string) error {
	rate, err := units.ParseRate(text)
	*r = Rate(rate)
	return err
}

// Type implements pflag.Value.
func (*Rate) Type() string { return "rate" }
