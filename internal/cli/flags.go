package cli

import (
	"fmt"
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

// ByteRate is a flag value in bytes a second: a size as [units.ParseSize] reads it with or without
// "/s", such as 20Mi or 20MiB/s, or the rate of a link in bits as [units.ParseRate] reads it, such
// as 200Mbit.
type ByteRate int64

// String implements pflag.Value.
func (r *ByteRate) String() string { return units.ExactSize(int64(*r)) }

// Set implements pflag.Value.
func (r *ByteRate) Set(text string) error {
	size, err := units.ParseSize(strings.TrimSuffix(text, "/s"))
	if err == nil {
		*r = ByteRate(size)
		return nil
	}
	bits, bitsErr := units.ParseRate(text)
	if bitsErr != nil {
		return fmt.Errorf("%.40q is not a rate in bytes a second such as 20Mi, or in bits such as 200Mbit", text)
	}
	*r = ByteRate(bits / 8)
	return nil
}

// Type implements pflag.Value.
func (*ByteRate) Type() string { return "rate" }
