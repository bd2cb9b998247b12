// Package cluster runs a real Kubernetes cluster on one machine for tests: etcd, the API
// server, the controller manager and the scheduler, a registry, and nodes with containerd
// and kubelet.
//
// [Main] puts a test program and everything that it starts into namespaces of their own,
// process numbers and network included. So clusters do not meet each other, nothing
// is changed on the machine, and everything ends with the test program, even if that is
// killed. Control groups and files are removed by a process that waits for that end.
//
// A node is a process with namespaces of its own inside these. It has a root directory
// with the programs of the machine and its own /etc, /var and /run, and runs services
// from unit files as systemd does: it understands what brisk-node needs of that.
//
// The programs are built from the module cache, of the versions in tools, and kept in
// the user's cache directory.
package cluster
