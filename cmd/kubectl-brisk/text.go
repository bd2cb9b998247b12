package main

import "fmt"

// orDash stands a dash in for nothing.
func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// sizeText writes a number of bytes for people.
func sizeText(bytes int64) string {
	const base = 1024
	size, units := float64(bytes), []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	for size >= base && len(units) > 1 {
		size, units = size/base, units[1:]
	}
	if units[0] == "B" {
		return fmt.Sprintf("%d B", bytes)
	}
	return fmt.Sprintf("%.1f %s", size, units[0])
}

// rateText writes a rate in bytes per second for people; 0 is not known.
func rateText(rate int64) string {
	if rate <= 0 {
		return "-"
	}
	return sizeText(rate) + "/s"
}

// secondsText writes a time to ready for people.
func secondsText(seconds float64) string { return fmt.Sprintf("%.2fs", seconds) }
