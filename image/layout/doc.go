// Package layout lets images in files be used like images in a registry: OCI image layouts in
// directories and tar archives, and what "docker save" writes.
//
// A [Host] serves them with the API of the OCI distribution specification, to the process itself
// only: its connections are pipes in memory. So whatever reads or writes images through a
// [registry.Client] works with files too.
//
//	oci:DIR[:TAG]               an OCI image layout; created if it is written to
//	oci-archive:FILE[:TAG]      a tar of one; written anew when it is closed
//	docker-archive:FILE[:NAME]  what "docker save" writes; is only read
package layout
