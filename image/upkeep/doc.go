// Package upkeep lists and removes what conversions have left in a repository: accelerated tags,
// index artifacts, start-up artifacts and images in full mode.
//
// It never removes an image that it has not been made by a conversion, and no manifest that a remaining tag lists. All it
// knows it reads from the registry: its tags, what they name, and the referrers of that.
package upkeep
