package record

import (
	"strings"

	"github.com/brisk-project/brisk/image/startup"
)

// CommandLine returns a program and its arguments as one line of a shell: the key of a trace.
func CommandLine(args []string) string {
	quoted := make([]string, len(args))
	for i, arg := range args {
		quoted[i] = quote(arg)
	}
	line := strings.ToValidUTF8(strings.Join(quoted, " "), "?")
	if len(line) > startup.MaxCommand {
		line = strings.ToValidUTF8(line[:startup.MaxCommand], "")
	}
	return line
}

func quote(arg string) string {
	safe := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("@%_-+=:,./", r)
	}
	if arg != "" && strings.IndexFunc(arg, func(r rune) bool { return !safe(r) }) < 0 {
		return arg
	}
	return "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
}
