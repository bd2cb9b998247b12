// Package source decorates block sources. Each constructor takes a
// [block.Source] and returns one with a property added:
//
//   - [Verify] lets through only blocks with the right length and digest.
//   - [Retry] asks again, a bounded number of times, for what did not come.
//   - [Chain] asks several sources in turn, each for what the ones before it did
//     not deliver.
//   - [ReadThrough] puts a store in front of a source and keeps in it what the source
//     delivers.
//   - [NewSingleFlight] fetches a block once however many ask for it at a time.
//   - [NewPriority] bounds how much runs at a time and lets urgent requests go
//     first.
//
// A decorator keeps to the whole contract of block.Source provided that the
// source below it does. Verify alone does not trust the source below: whatever
// that one delivers, only right blocks pass, each once, and nil means complete.
//
// Everything here is safe for concurrent use.
package source
