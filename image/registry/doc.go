// Package registry knows container registries: how an image is resolved, how its
// index artifact is found and pushed, and how single blocks of its layers are
// read.
//
// [Client] does the first two. It keeps one session for each repository: the
// credentials come from a keychain, or from [Credentials] that know several for one
// repository, and are asked for anew whenever a registry stops accepting what it
// accepted before. Bearer tokens are renewed once for all requests in flight, and
// plain HTTP is spoken on loopback or on request only.
// Whatever a registry sends is bounded in size and, where a digest is known,
// verified before it is parsed.
//
// [Source] is the last [block.Source] of a node: it turns blocks into ranged
// reads of layer blobs and decodes the frames that cover them. It follows
// redirects itself and remembers where they led, so that a read in steady state
// is one request to the storage behind the registry.
//
// An index artifact ([Artifact]) is an OCI image manifest of artifact type
// [ArtifactType]. Its subject is the platform manifest it belongs to and it lists
// one blob for each distinct layer, annotated with the layer's digest and diffID.
// docs/format.md has the full description.
package registry
