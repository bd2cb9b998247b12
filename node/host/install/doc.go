// Package install puts brisk-node on a node and takes it away again: the unit of the
// service manager, and the configuration of containerd.
//
// Whatever fails on the way, containerd is left with a configuration that it starts
// with: each step is checked, by containerd itself where it can be asked, and undone if
// the check fails. [Installer.Uninstall] does not need the agent.
package install
