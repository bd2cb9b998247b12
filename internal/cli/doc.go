// Package cli is what the commands of several programs have in common: printing results
// as tables, JSON and YAML, flags for sizes and rates, bars of progress, and saying which
// version a program is.
package cli
