package docs

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// CheckCommands checks that the commands and flags of a program that the documentation shows exist.
// name is what users type, such as "kubectl brisk". newRoot returns the root command of the program.
func CheckCommands(t *testing.T, name string, newRoot func() *cobra.Command) {
	t.Helper()
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	pages, err := Pages(root)
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for page, text := range pages {
		for _, command := range Commands(page, text) {
			args, ok := command.argumentsOf(name)
			if !ok {
				continue
			}
			checked++
			if err := parse(newRoot(), args, command.Sample); err != nil {
				t.Errorf("%s:%d: %s: %v", page, command.Line, strings.Join(command.Words, " "), err)
			}
		}
	}
	if checked == 0 {
		t.Errorf("the documentation shows no command of %s", name)
	}
}

// argumentsOf returns the arguments of a command that runs a program.
func (c Command) argumentsOf(program string) ([]string, bool) {
	want := strings.Fields(program)
	if len(c.Words) < len(want) {
		return nil, false
	}
	got := slices.Clone(c.Words[:len(want)])
	got[0] = filepath.Base(got[0])
	return c.Words[len(want):], slices.Equal(got, want)
}

// parse does what cobra does before it runs a command.
func parse(root *cobra.Command, args []string, complete bool) error {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd(args...)
	cmd, rest, err := root.Find(args)
	if err != nil {
		return err
	}
	cmd.InitDefaultHelpFlag()
	cmd.InitDefaultVersionFlag()
	err = cmd.ParseFlags(rest)
	if _, lacksValue := errors.AsType[*pflag.ValueRequiredError](err); lacksValue && !complete {
		return nil // the text names the flag
	}
	if err != nil {
		return err
	}
	if !cmd.Runnable() && cmd.Flags().NArg() > 0 {
		return fmt.Errorf("unknown command %q for %q", cmd.Flags().Arg(0), cmd.CommandPath())
	}
	if help, err := cmd.Flags().GetBool("help"); !complete || err == nil && help {
		return err
	}
	if err := cmd.ValidateArgs(cmd.Flags().Args()); err != nil {
		return err
	}
	if err := cmd.ValidateRequiredFlags(); err != nil {
		return err
	}
	return cmd.ValidateFlagGroups()
}
