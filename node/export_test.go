package node

import "time"

// CheckNote reports whether a note can be read.
func CheckNote(content []byte) error {
	_, err := parseNote(content)
	return err
}

// EndStarts returns the starts of a node as if the time in which they are measured had passed.
func EndStarts(n *Node) []Start { return n.delays.ended(time.Now().Add(delayWindow)) }
