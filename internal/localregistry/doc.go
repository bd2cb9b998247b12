// Package localregistry runs a real container registry inside the process, on a
// loopback address: for the demonstration, which limits how fast it sends, and
// for tests.
//
// Two registries are offered because they differ where it matters: the CNCF
// distribution registry has no referrers API, so clients must fall back to tags;
// the one of go-containerregistry has it. Neither asks for credentials; wrap the
// handler for that ([Config].Wrap).
//
// A [Server] owns its goroutines: they end with Close, but for one idle event
// broadcaster that the distribution registry never stops.
package localregistry
