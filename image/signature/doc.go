// Package signature signs the digests of artifacts and verifies such signatures, in the
// simple-signing format of cosign: a [Signature] is a small JSON payload that names the digest, and
// the signature of that payload by a key. Keys, payloads and algorithms are those of the sigstore
// libraries, so that cosign and its policies understand what this package makes, and the other way
// round.
//
// A [Set] is what a registry stores for one digest: an OCI image manifest with one payload for each
// signature. It is untrusted until [Set.Verify] has found a signature by a trusted [Key]. Everything
// that is read has a limit.
package signature
