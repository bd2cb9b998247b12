package node

// CheckNote reports whether a note can be read.
func CheckNote(content []byte) error {
	_, err := parseNote(content)
	return err
}
