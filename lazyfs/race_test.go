//go:build race

package lazyfs_test

// underRace says that everything takes several times as long.
const underRace = true
