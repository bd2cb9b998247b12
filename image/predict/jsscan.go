package predict

import "bytes"

const (
	// maxSpecifier is the longest name of a module.
	maxSpecifier = 512
	// maxSpecifiers is the most modules that one source loads.
	maxSpecifiers = 1024
)

// scanJavaScript returns the names of the modules that a source loads with require, import or
// export, in their order. It looks at words and not at the grammar.
func scanJavaScript(source []byte) []string {
	var found []string
	for i := 0; i < len(source) && len(found) < maxSpecifiers; i++ {
		var word string
		switch source[i] {
		case 'r':
			word = "require"
		case 'f':
			word = "from"
		case 'i':
			word = "import"
		default:
			continue
		}
		if !bytes.HasPrefix(source[i:], []byte(word)) || i > 0 && inWord(source[i-1]) || unlikely(source, i) {
			continue
		}
		if name, ok := quotedAfter(source[i+len(word):], word); ok {
			found = append(found, name)
		}
	}
	return found
}

func inWord(c byte) bool {
	return c == '_' || c == '$' || c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c == '.'
}

// unlikely reports whether what is at a position of a source is in a comment that begins
// the line.
func unlikely(source []byte, at int) bool {
	line := source[bytes.LastIndexByte(source[:at], '\n')+1 : at]
	line = bytes.TrimLeft(line, " \t")
	return bytes.HasPrefix(line, []byte("//")) || bytes.HasPrefix(line, []byte("*")) || bytes.HasPrefix(line, []byte("/*"))
}

// quotedAfter returns the string that follows a word, if nothing else does.
func quotedAfter(after []byte, word string) (string, bool) {
	after = bytes.TrimLeft(after[:min(len(after), maxSpecifier+64)], " \t\n")
	call := false
	if word != "from" {
		var rest []byte
		if rest, call = bytes.CutPrefix(after, []byte("(")); call {
			after = bytes.TrimLeft(rest, " \t\n")
		}
	}
	if word == "require" && !call || len(after) == 0 || after[0] != '"' && after[0] != '\'' && after[0] != '`' {
		return "", false
	}
	end := bytes.IndexByte(after[1:], after[0])
	if end < 1 || end > maxSpecifier {
		return "", false
	}
	name, rest := after[1:1+end], bytes.TrimLeft(after[2+end:], " \t\n")
	if call && !bytes.HasPrefix(rest, []byte(")")) || bytes.ContainsAny(name, "\n$\\") {
		return "", false // a part of a name
	}
	return string(name), true
}
