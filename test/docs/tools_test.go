package docs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/brisk-project/brisk/test/docs"
)

// placeholder is what readers replace, such as PACKAGE.
var placeholder = regexp.MustCompile(`^(\./)?[A-Z]+$`)

// shown returns the commands of all pages that run a program.
func shown(t *testing.T, program string) []docs.Command {
	t.Helper()
	all, err := docs.Pages(root)
	if err != nil {
		t.Fatal(err)
	}
	var found []docs.Command
	for page, text := range all {
		for _, command := range docs.Commands(page, text) {
			if command.Words[0] == program {
				found = append(found, command)
			}
		}
	}
	if len(found) == 0 {
		t.Fatalf("the documentation shows no command %s", program)
	}
	return found
}

// TestMakeTargetsExist checks the targets in "make TARGET" and that the variables are used.
func TestMakeTargetsExist(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range shown(t, "make") {
		for _, word := range command.Words[1:] {
			name, _, isVariable := strings.Cut(word, "=")
			want := `(?m)^` + regexp.QuoteMeta(word) + `:`
			if isVariable {
				want = `\b` + regexp.QuoteMeta(name) + `\b`
			}
			if strings.HasPrefix(word, "$") || strings.HasPrefix(word, "bin/") || placeholder.MatchString(word) {
				continue
			}
			if !regexp.MustCompile(want).Match(makefile) {
				t.Errorf("%s:%d: make %s: Makefile has no %s", command.Page, command.Line, strings.Join(command.Words[1:], " "), name)
			}
		}
	}
}

// TestGoTestsExist checks the packages and the names of tests and benchmarks in "go test".
func TestGoTestsExist(t *testing.T) {
	for _, command := range shown(t, "go") {
		if len(command.Words) < 2 || command.Words[1] != "test" {
			continue
		}
		if err := checkGoTest(command.Words[2:]); err != nil {
			t.Errorf("%s:%d: %s: %v", command.Page, command.Line, strings.Join(command.Words, " "), err)
		}
	}
}

// checkGoTest checks that the packages exist, and that each pattern of names matches in one of them.
func checkGoTest(args []string) error {
	var names []string
	patterns := make(map[string]string)
	for i := 0; i < len(args); i++ {
		switch flag, value, joined := strings.Cut(args[i], "="); {
		case strings.HasPrefix(args[i], "./"):
			if placeholder.MatchString(args[i]) {
				return nil
			}
			found, err := functions(args[i])
			if err != nil {
				return err
			}
			names = append(names, found...)
		case (flag == "-run" || flag == "-bench" || flag == "-fuzz") && !joined && i+1 < len(args):
			i++
			patterns[flag] = args[i]
		case joined:
			patterns[flag] = value
		}
	}
	for flag, prefix := range map[string]string{"-run": "Test", "-bench": "Benchmark", "-fuzz": "Fuzz"} {
		pattern := patterns[flag]
		if pattern == "" || pattern == "^$" || placeholder.MatchString(pattern) {
			continue
		}
		name, err := regexp.Compile(topLevel(pattern))
		if err != nil {
			return fmt.Errorf("%s: %w", flag, err)
		}
		if !slices.ContainsFunc(names, func(f string) bool { return strings.HasPrefix(f, prefix) && name.MatchString(f) }) {
			return fmt.Errorf("%s %s matches nothing", flag, pattern)
		}
	}
	return nil
}

// topLevel returns the part of a pattern for functions, in front of those for their subtests.
func topLevel(pattern string) string {
	first, _, _ := strings.Cut(pattern, "/")
	return first
}

var function = regexp.MustCompile(`(?m)^func ((?:Test|Benchmark|Fuzz)\w*)\(`)

// functions returns the names of the tests of packages.
func functions(pattern string) ([]string, error) {
	dir, recursive := strings.CutSuffix(filepath.Join(root, pattern), "...")
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if recursive && err == nil {
		deeper, globErr := filepath.Glob(filepath.Join(dir, "*", "*_test.go"))
		files, err = append(files, deeper...), globErr
	}
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s has no tests", pattern)
	}
	var found []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		for _, match := range function.FindAllStringSubmatch(string(text), -1) {
			found = append(found, match[1])
		}
	}
	return found, nil
}
