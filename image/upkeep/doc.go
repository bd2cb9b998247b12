// Package upkeep lists and removes what conversions have left in a repository: accelerated tags,
// index artifacts, start-up artifacts and images in full mode.
//
// It never removes an image that no conversion has made, nor a manifest that a remaining tag lists. It
// reads everything it knows from the registry: the tags, what they name, and the referrers of that.
package upkeep
