// Package bench measures Brisk as its users have it: the built program, real
// registries, real images. [Demo] is what "brisk demo" runs: an image is pulled, unpacked
// and run the plain way, then started lazily on several nodes that share blocks, all over
// one link of limited rate. What a part costs by itself is measured by the benchmarks
// beside it.
//
// Where Brisk has a figure to reach, a test fails when it is missed.
package bench
