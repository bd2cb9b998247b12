package predict

import (
	"bytes"
	"strings"
)

// maxImports is the most modules that one source imports.
const maxImports = 1024

// pythonImport is one import of a source: "import module", or "from module import names".
type pythonImport struct {
	level  int // of a relative import: the number of dots
	module string
	names  []string
}

// scanPython returns what a source imports when it is loaded, in the order of the source: not what
// is in functions, nor what is for type checkers only.
func scanPython(source []byte) []pythonImport {
	var found []pythonImport
	skipped := -1 // the indentation of the function that the lines are in
	for line := range logicalLines(source) {
		text := strings.TrimLeft(line, " \t")
		indentation := len(line) - len(text)
		if text == "" || skipped >= 0 && indentation > skipped {
			continue
		}
		skipped = -1
		if len(found) >= maxImports {
			break
		}
		if runsLater(text) {
			skipped = indentation
			continue
		}
		found = append(found, statement(text)...)
	}
	return found
}

// runsLater reports whether a line begins what does not run when a module is loaded.
func runsLater(text string) bool {
	word, rest, _ := strings.Cut(text, " ")
	return word == "def" || word == "async" || word == "if" && strings.Contains(rest, "TYPE_CHECKING") && !strings.Contains(rest, "not ")
}

// statement returns the imports of a line.
func statement(text string) (found []pythonImport) {
	word, rest, _ := strings.Cut(text, " ")
	switch word {
	case "import":
		for name := range strings.SplitSeq(rest, ",") {
			if fields := strings.Fields(name); len(fields) > 0 {
				found = append(found, pythonImport{module: strings.TrimRight(fields[0], ";")})
			}
		}
	case "from":
		if i, ok := fromImport(rest); ok {
			found = append(found, i)
		}
	default:
		// "try: import x" and the like
		if _, after, ok := strings.Cut(text, ": import "); ok {
			return statement("import " + after)
		}
	}
	return found[:min(len(found), maxImports)]
}

// fromImport reads what follows "from".
func fromImport(rest string) (i pythonImport, ok bool) {
	module, names, ok := strings.Cut(rest, " import")
	if !ok {
		return i, false
	}
	module = strings.ReplaceAll(module, " ", "")
	i.module = strings.TrimLeft(module, ".")
	i.level = len(module) - len(i.module)
	for name := range strings.SplitSeq(strings.Trim(names, " ()"), ",") {
		if fields := strings.Fields(name); len(fields) > 0 && fields[0] != "*" && len(i.names) < maxImports {
			i.names = append(i.names, strings.Trim(fields[0], "();"))
		}
	}
	return i, i.level <= maxDirectories
}

// maxDirectories is how many directories a relative import may go up.
const maxDirectories = 64

// logicalLines returns the lines of a source that are not in a string of several lines, without
// comments, and those in parentheses as one.
func logicalLines(source []byte) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		var joined strings.Builder
		open := 0
		quote := ""
		for line := range bytes.Lines(source) {
			if len(line) > maxLine {
				continue
			}
			code := code(string(line), &quote, &open)
			joined.WriteString(code)
			if continued := strings.HasSuffix(code, "\\"); (open > 0 || continued) && joined.Len() < maxLine {
				joined.WriteByte(' ')
				continue
			}
			if !yield(strings.ReplaceAll(joined.String(), "\\ ", " ")) {
				return
			}
			joined.Reset()
			open = 0
		}
		if joined.Len() > 0 {
			yield(joined.String())
		}
	}
}

// maxLine is the longest line that is looked at.
const maxLine = 64 << 10

// code returns a line without strings and comments. quote is that of the string that goes on at the
// end of the line, open the number of open parentheses.
func code(line string, quote *string, open *int) string {
	var out strings.Builder
	for i := 0; i < len(line); {
		if *quote != "" {
			end := strings.Index(line[i:], *quote)
			if end < 0 {
				return out.String()
			}
			i += end + len(*quote)
			*quote = ""
			continue
		}
		switch c := line[i]; c {
		case '#':
			return strings.TrimRight(out.String(), " \t\r\n")
		case '"', '\'':
			if strings.HasPrefix(line[i:], strings.Repeat(string(c), 3)) {
				*quote = strings.Repeat(string(c), 3)
				i += 3
				continue
			}
			i = afterString(line, i)
			out.WriteString(`""`)
			continue
		case '(', '[', '{':
			*open++
		case ')', ']', '}':
			*open = max(0, *open-1)
		}
		out.WriteByte(line[i])
		i++
	}
	return strings.TrimRight(out.String(), " \t\r\n")
}

// afterString returns where the string that begins at a position of a line has ended.
func afterString(line string, at int) int {
	for i := at + 1; i < len(line); i++ {
		switch line[i] {
		case '\\':
			i++
		case line[at]:
			return i + 1
		}
	}
	return len(line)
}
