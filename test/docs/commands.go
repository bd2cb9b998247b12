package docs

import (
	"regexp"
	"strings"
)

// Command is a command that a page shows.
type Command struct {
	Page string
	Line int // of the page, from 1
	// Words are the program and its arguments, without quotes, redirections and variables before it.
	Words []string
	// Sample is set if the command is in a block of code, which readers paste. In running text it
	// may lack arguments.
	Sample bool
}

var (
	blockStart = regexp.MustCompile("^ *```(\\w*) *$")
	inlineCode = regexp.MustCompile("`([^`]+)`")
	assignment = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*=`)
)

// isShell says whether a block of code in a language has commands.
func isShell(language string) bool {
	return language == "sh" || language == "bash" || language == "shell" || language == "console"
}

// Samples returns the blocks of commands of a page, in order.
func Samples(text string) []string {
	var found []string
	eachBlock(text, func(_ int, language string, lines []string) {
		if isShell(language) {
			found = append(found, strings.Join(lines, "\n")+"\n")
		}
	}, func(int, string) {})
	return found
}

// eachBlock calls block for each block of code, with the number of its first line, and text for
// each line outside of them.
func eachBlock(page string, block func(first int, language string, lines []string), text func(number int, line string)) {
	var lines []string
	first, language := 0, ""
	for i, line := range strings.Split(page, "\n") {
		start := blockStart.FindStringSubmatch(line)
		switch {
		case first == 0 && start != nil:
			first, language, lines = i+2, start[1], nil
		case first == 0:
			text(i+1, line)
		case start != nil:
			block(first, language, lines)
			first = 0
		default:
			lines = append(lines, line)
		}
	}
}

// Commands returns the commands of a page.
func Commands(page, text string) []Command {
	var found []Command
	add := func(line int, code string, sample bool) {
		for _, words := range splitShell(code) {
			for len(words) > 0 && assignment.MatchString(words[0]) {
				words = words[1:]
			}
			if len(words) > 0 {
				found = append(found, Command{Page: page, Line: line, Words: words, Sample: sample})
			}
		}
	}
	eachBlock(text, func(first int, language string, lines []string) {
		if !isShell(language) {
			return
		}
		for i := 0; i < len(lines); i++ {
			number, line := first+i, lines[i]
			for strings.HasSuffix(line, `\`) && i+1 < len(lines) {
				i++
				line = strings.TrimSuffix(line, `\`) + lines[i]
			}
			add(number, line, true)
		}
	}, func(number int, line string) {
		for _, match := range inlineCode.FindAllStringSubmatch(line, -1) {
			add(number, strings.ReplaceAll(match[1], `\|`, "|"), false) // as tables need it
		}
	})
	return found
}

// splitShell returns the words of each command of a line of shell. It knows quotes, comments,
// redirections, and what stands between commands; it expands nothing.
func splitShell(line string) [][]string {
	s := &splitter{}
	for i := 0; i < len(line); i++ {
		i = s.next(line, i)
	}
	s.endCommand()
	return s.commands
}

// splitter is the state within a line.
type splitter struct {
	commands [][]string
	words    []string
	word     strings.Builder
	inWord   bool
	redirect bool // the next word is a file
}

// next takes the character at i, and returns the position of the last one that it has taken.
func (s *splitter) next(line string, i int) int {
	switch c := line[i]; {
	case c == '\'' || c == '"':
		return s.quoted(line, i)
	case c == '\\' && i+1 < len(line):
		s.add(line[i+1 : i+2])
		return i + 1
	case strings.HasPrefix(line[i:], "$("):
		return s.substitution(line, i)
	case c == '#' && !s.inWord:
		return len(line)
	case c == ' ' || c == '\t':
		s.endWord()
	case strings.HasPrefix(line[i:], "<<<"):
		s.endWord()
		s.redirect = true
		return i + 2
	case c == '>' || c == '<':
		s.redirection()
	case c == '&' && s.redirect && !s.inWord: // the descriptor in 2>&1
		s.add("&")
	case strings.IndexByte("|&;()", c) >= 0:
		s.endCommand()
	default:
		s.add(line[i : i+1])
	}
	return i
}

func (s *splitter) add(text string) {
	s.word.WriteString(text)
	s.inWord = true
}

func (s *splitter) quoted(line string, i int) int {
	end := strings.IndexByte(line[i+1:], line[i])
	if end < 0 {
		end = len(line) - i - 1
	}
	s.add(line[i+1 : i+1+end])
	return i + 1 + end
}

func (s *splitter) substitution(line string, i int) int {
	depth := 0
	for at := i; at < len(line); at++ {
		switch line[at] {
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				s.add(line[i : at+1])
				return at
			}
		}
	}
	s.add(line[i:])
	return len(line)
}

// redirection begins the file that is written or read. A number before it is a descriptor.
func (s *splitter) redirection() {
	if strings.Trim(s.word.String(), "0123456789") == "" {
		s.word.Reset()
		s.inWord = false
	}
	s.endWord()
	s.redirect = true
}

func (s *splitter) endWord() {
	if !s.inWord {
		return
	}
	if !s.redirect {
		s.words = append(s.words, s.word.String())
	}
	s.word.Reset()
	s.inWord, s.redirect = false, false
}

func (s *splitter) endCommand() {
	s.endWord()
	if len(s.words) > 0 {
		s.commands = append(s.commands, s.words)
	}
	s.words = nil
}
