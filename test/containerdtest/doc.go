// Package containerdtest runs a real containerd and a real runc for tests.
//
// The programs are built from the module cache, of the versions that tools/go.mod names,
// and kept in the user's cache directory. Each [Daemon] has its own directories and
// socket. [Main] puts the tests of a package into a mount namespace where /run is their
// own, so that nothing is left on the machine, and no other containerd is met.
package containerdtest
