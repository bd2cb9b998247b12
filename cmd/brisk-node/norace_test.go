//go:build !race

package main

// underRace says that the race detector makes everything several times slower and larger.
const underRace = false
