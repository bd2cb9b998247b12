package predict

import (
	"path"
	"slices"
	"strings"
)

// shell adds what a shell does with its arguments.
func (p *predictor) shell(args []string, depth int) {
	for len(args) > 0 && (strings.HasPrefix(args[0], "-") || strings.HasPrefix(args[0], "+")) {
		if options, ok := strings.CutPrefix(args[0], "-"); ok && !strings.HasPrefix(options, "-") && strings.Contains(options, "c") {
			if len(args) > 1 {
				p.commands(args[1], args[min(2, len(args)):], depth)
			}
			return
		}
		skipped := 1
		if args[0] == "-o" || args[0] == "+o" {
			skipped = 2
		}
		args = args[min(skipped, len(args)):]
	}
	if len(args) == 0 {
		return
	}
	script, ok := p.lookPath(args[0])
	if !ok {
		script, ok = p.file(p.absolute(args[0]))
	}
	if !ok {
		p.note("the image has no script %.100q", args[0])
		return
	}
	content, err := p.content(script.node, maxScript)
	if err != nil {
		p.note("%s: %v", script.path, err)
		return
	}
	p.take(script.node)
	p.commands(string(content), args, depth)
}

// commands adds the programs that a script runs: what it replaces itself with, with its arguments,
// and of others the programs. Arguments are those of the script, its name first. Only words without
// substitutions are understood, and "$@".
func (p *predictor) commands(script string, args []string, depth int) {
	looked := 0
	for _, line := range shellLines(script) {
		words := afterKeywords(strings.Fields(line))
		if len(words) == 0 {
			continue
		}
		if looked++; looked > maxCommands {
			return
		}
		p.simpleCommand(words, args, depth)
	}
}

// simpleCommand adds what one command of a script reads.
func (p *predictor) simpleCommand(words, args []string, depth int) {
	replaces := words[0] == "exec"
	if replaces {
		words = afterOptions(words[1:], "-a")
	}
	command := literalWords(words, args)
	switch {
	case len(command) == 0 || isBuiltin(command[0]):
	case command[0] == "." || command[0] == "source":
		if len(command) > 1 {
			p.takeNamed(p.absolute(command[1]))
		}
	case replaces || len(command) > 1 && wraps(command[0]):
		p.start(command, depth+1)
	default:
		p.utility(command[0], depth)
	}
}

// wraps reports whether a program runs the command that its arguments are.
func wraps(name string) bool {
	switch path.Base(name) {
	case "node", "nodejs", "python", "python3", "java", "env", "tini", "dumb-init", "gosu", "su-exec", "sh", "bash", "npm", "npx":
		return true
	default:
		return false
	}
}

// utility adds a program that a script runs, with its libraries only.
func (p *predictor) utility(name string, depth int) {
	program, ok := p.lookPath(name)
	if !ok || p.seen[program.node] || p.spent || depth > maxDepth {
		return
	}
	if f := p.parse(program); f != nil {
		p.execute(program, f)
	}
}

// shellLines returns the simple commands of a script, roughly: lines joined and split where commands
// end, without comments and here-documents.
func shellLines(script string) []string {
	var commands []string
	document := ""
	for line := range strings.Lines(strings.ReplaceAll(script, "\\\n", " ")) {
		line = strings.TrimSpace(line)
		switch {
		case document != "":
			if line == document {
				document = ""
			}
			continue
		case strings.HasPrefix(line, "#"):
			continue
		}
		document = hereDocument(line)
		commands = append(commands, strings.FieldsFunc(line, func(c rune) bool { return strings.ContainsRune(";|&()`", c) })...)
	}
	return commands
}

// hereDocument returns the word that ends the here-document that begins in a line, "" if none does.
func hereDocument(line string) string {
	_, after, ok := strings.Cut(line, "<<")
	fields := strings.Fields(strings.TrimLeft(after, "-"))
	if !ok || strings.HasPrefix(after, "<") || len(fields) == 0 {
		return ""
	}
	return strings.Trim(fields[0], `'"\`)
}

// afterKeywords returns a command without the words of the shell and assignments before it.
func afterKeywords(words []string) []string {
	for len(words) > 0 {
		name, _, assigns := strings.Cut(words[0], "=")
		keyword := slices.Contains([]string{"if", "then", "else", "elif", "do", "while", "until", "!", "{", "time", "command"}, words[0])
		if !keyword && (!assigns || strings.ContainsAny(name, `/$"'[`)) {
			return words
		}
		words = words[1:]
	}
	return nil
}

// literalWords returns words without quotes, with the arguments of the script in place of "$@". It
// ends at the first word that only a shell can tell.
func literalWords(words, args []string) []string {
	var literal []string
	for _, w := range words {
		if w == `"$@"` || w == "$@" || w == "$*" || w == `"${@}"` {
			return append(literal, args[min(1, len(args)):]...)
		}
		if strings.ContainsAny(w, "<>") {
			return literal
		}
		if w = strings.Trim(w, `"'`); strings.ContainsAny(w, "$*?") {
			return literal
		}
		literal = append(literal, w)
	}
	return literal
}

// isBuiltin reports whether a shell needs no file for a command.
func isBuiltin(name string) bool {
	return slices.Contains([]string{
		"[", "[[", ":", "alias", "break", "case", "cd", "continue", "declare", "done", "echo", "esac", "eval", "exit", "export", "false", "fi", "for",
		"function", "in", "local", "printf", "pwd", "read", "readonly", "return", "set", "shift", "test", "trap", "true", "type", "typeset", "ulimit",
		"umask", "unset", "wait", "}", "then", "else", "command", "let", "shopt", "hash", "getopts",
	}, name)
}
