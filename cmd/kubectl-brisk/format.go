package main

import "fmt"

// orDash stands a dash in for nothing.
func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// secondsText writes a time to ready for people.
func secondsText(seconds float64) string { return fmt.Sprintf("%.2fs", seconds) }
