// Package credential finds, keeps and renews the credentials with which images are
// read from registries.
//
// A [Store] asks several sources in turn and remembers, for every repository, the
// credential that its registry accepted. The sources are a keychain such as that of
// Docker ([NewKeychain]), a directory of Docker configuration files as Kubernetes
// mounts Secrets ([NewDirectory]), the credential provider plugins of kubelet, run
// with kubelet's own configuration ([NewPlugins]), and what kubelet was seen to use
// itself ([Store.Capture]).
//
// A container that reads its image for weeks outlives the credential it was started
// with, the process that reads for it, and at times the service that gives
// credentials out. So a credential is replaced before it ends, at once when a
// registry refuses it, and it is kept on disk, sealed with a key of the node, so
// that a restart asks nobody. A source that fails or hangs holds up nothing but
// itself, and is left alone for a moment.
//
// No secret gets into a log, an error, a metric or a name. [Secret] prints as a
// placeholder, whatever the verb, and refuses to be marshalled.
package credential
