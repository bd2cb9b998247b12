//go:build !race

package node_test

// underRace says that the race detector makes everything several times slower.
const underRace = false
