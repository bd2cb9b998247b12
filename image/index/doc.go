// Package index holds the layer index: everything a node needs to know of one
// image layer besides its data.
package index
