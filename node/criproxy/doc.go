// Package criproxy stands between kubelet and the container runtime to learn with
// which credentials images are pulled.
//
// kubelet decides for every pod which pull secrets and credential providers its
// images may use, and tells nobody but the runtime, as a part of the call PullImage.
// Who reads images lazily needs the same credentials, for as long as a container
// runs. So a [Proxy] listens where kubelet looks for the runtime, hands every call of
// every service on to the runtime's own socket as it is, byte for byte, and looks at
// one message only: the request of PullImage.
//
// It understands nothing else, and so stands in nothing's way: calls that are newer
// than this program, streams, metadata, deadlines, and errors with their details
// pass in both directions. When the runtime is away, callers are told so at once, as
// the runtime's missing socket would; when it is back, the next call finds it.
package criproxy
