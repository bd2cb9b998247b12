// Package pages keeps parts of layer streams that are smaller than blocks: the pages that
// the start of an image reads, as a bundle has them.
//
// A [Set] is the content of one bundle in one file, in the order of the bundle, and a table
// in memory that says which bytes of which layer lie where. It is filled frame by frame
// while the bundle arrives, and read at the same time. A [Store] keeps the sets of a node
// beside the block cache and takes its room from there.
//
// A set is served only to the image it belongs to, since no block digest covers its bytes:
// they never become blocks.
//
// Files survive the process. Those of a process before this one are verified frame by frame,
// each before its first use; what is missing or damaged counts as absent.
//
// All types are safe for concurrent use.
package pages
