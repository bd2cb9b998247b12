// Package hosts reads the registry configuration of containerd: the file hosts.toml in
// a directory for each of them, with mirrors, certificates and headers, or certificates
// alone.
//
// The files are read by containerd's own library, so they mean the same here as there,
// with one exception: a mirror is shown the credentials for its own name, not those for
// the registry that it mirrors. A file that containerd cannot read counts as none.
//
// What has changed in the directory of a registry is noticed within seconds.
package hosts
