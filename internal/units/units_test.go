package units_test

import (
	"math"
	"testing"

	"github.com/brisk-project/brisk/internal/units"
)

func TestParseSize(t *testing.T) {
	for text, want := range map[string]struct {
		bytes int64
		again string
	}{
		"0": {0, "0"}, "1": {1, "1"}, "512Ki": {512 << 10, "512Ki"}, "1.5Gi": {3 << 29, "1536Mi"}, "20Gi": {20 << 30, "20Gi"}, "100B": {100, "100"},
		"5M": {5_000_000, "5M"}, "2 GB": {2e9, "1953125Ki"}, "1k": {1000, "1k"}, "3TiB": {3 << 40, "3Ti"}, "9223372036854775807": {math.MaxInt64, "9223372036854775807"},
	} {
		got, err := units.ParseSize(text)
		if err != nil || got != want.bytes || units.ExactSize(got) != want.again {
			t.Errorf("%q is %d, written as %q, error %v; want %d, %q", text, got, units.ExactSize(got), err, want.bytes, want.again)
		}
	}
	for _, text := range []string{"", "much", "-1", "1X", "1.2.3", "Gi", "5Mi5", "99999999999T", "0x10", "NaN", "Inf", "1e3", "1_000", "+1", "0x1p4", "5Mbit"} {
		if got, err := units.ParseSize(text); err == nil {
			t.Errorf("%q is taken for %d", text, got)
		}
	}
}

func TestParseRate(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "200Mbit": 200e6, "200Mbit/s": 200e6, "1 Gbit": 1e9, "64kbit/s": 64e3, "1000000": 1e6, "2.5Gbit": 25e8,
	} {
		if got, err := units.ParseRate(text); err != nil || got != want {
			t.Errorf("%q is %d, error %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "fast", "-1Mbit", "5M", "5MiB/s"} {
		if got, err := units.ParseRate(text); err == nil {
			t.Errorf("%q is taken for %d", text, got)
		}
	}
}

func TestTextForPeople(t *testing.T) {
	for bytes, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 114 << 20: "114 MiB", 1023 << 20: "1023 MiB", 1<<30 - 1: "1.0 GiB",
		20 << 30: "20.0 GiB", 1<<20 - 1: "1.0 MiB", math.MaxInt64: "8.0 EiB", -1536: "-1.5 KiB", 102_348: "99.9 KiB", 102_400: "100 KiB",
	} {
		if got := units.Size(bytes); got != want {
			t.Errorf("%d bytes are written as %q, want %q", bytes, got, want)
		}
	}
	if got := units.Rate(200_000_000); got != "200 Mbit/s" {
		t.Error(got)
	}
	if units.Throughput(0) != "-" || units.Throughput(100<<20) != "100 MiB/s" {
		t.Errorf("%s, %s", units.Throughput(0), units.Throughput(100<<20))
	}
}
