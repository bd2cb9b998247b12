// Package registrytest gives tests a real registry on a loopback address, with
// and without the referrers API, that can be told to misbehave, that records
// what it was asked, and images to put into it.
//
// Everything a registry does wrong in the field is a [Fault]: it stands in front
// of the real handlers and is injected for some requests only.
package registrytest
