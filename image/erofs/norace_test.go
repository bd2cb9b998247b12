//go:build !race

package erofs_test

const raceEnabled = false
