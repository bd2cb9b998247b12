// Package bench measures Brisk as its users have it: the built program, real
// registries, real images. What a part costs by itself is measured by the benchmarks
// beside it.
//
// Where Brisk has a figure to hold, a test fails when it is missed.
package bench
