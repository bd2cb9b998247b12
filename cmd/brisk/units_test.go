package main

import "testing"

func TestByteSize(t *testing.T) {
	for text, want := range map[string]struct {
		bytes int64
		again string
	}{
		"0": {0, "0"}, "1": {1, "1"}, "512Ki": {512 << 10, "512Ki"}, "1.5Gi": {3 << 29, "1536Mi"}, "20Gi": {20 << 30, "20Gi"},
		"5M": {5_000_000, "5000000"}, "2 GB": {2e9, "1953125Ki"}, "1k": {1000, "1000"}, "3TiB": {3 << 40, "3Ti"},
	} {
		var size byteSize
		if err := size.Set(text); err != nil || int64(size) != want.bytes || size.String() != want.again {
			t.Errorf("%q is %d, shown as %q, error %v; want %d, %q", text, size, size.String(), err, want.bytes, want.again)
		}
		again := byteSize(0)
		if err := again.Set(size.String()); err != nil || again != size {
			t.Errorf("%q, shown as %q, reads as %d, error %v", text, size.String(), again, err)
		}
	}
	for _, text := range []string{"", "much", "-1", "1X", "1.2.3", "Gi", "5Mi5", "99999999999T", "0x10", "NaN", "Inf"} {
		var size byteSize
		if err := size.Set(text); err == nil {
			t.Errorf("%q is taken for %d", text, size)
		}
	}
}

func TestBitRate(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "200Mbit": 200e6, "200Mbit/s": 200e6, "1 Gbit": 1e9, "64kbit/s": 64e3, "1000000": 1e6, "2.5Gbit": 25e8,
	} {
		var rate, again bitRate
		if err := rate.Set(text); err != nil || int64(rate) != want {
			t.Errorf("%q is %d, error %v; want %d", text, rate, err, want)
		}
		if err := again.Set(rate.String()); err != nil || again != rate {
			t.Errorf("%q, shown as %q, reads as %d, error %v", text, rate.String(), again, err)
		}
	}
	for _, text := range []string{"", "fast", "-1Mbit", "5M", "5MiB/s"} {
		var rate bitRate
		if err := rate.Set(text); err == nil {
			t.Errorf("%q is taken for %d", text, rate)
		}
	}
}
