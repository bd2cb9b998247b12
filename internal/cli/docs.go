package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"github.com/spf13/pflag"

	"github.com/brisk-project/brisk/internal/version"
)

// AddDocs gives a program a hidden command that writes its manual pages, which belong to a
// section, and its shell completions. Packages are made with it. What it writes depends on
// the program only, not on the machine or the time.
func AddDocs(root *cobra.Command, section string) {
	root.AddCommand(&cobra.Command{
		Use:    "docs DIR",
		Short:  "Write man pages and shell completions to a directory",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := writeManual(root, section, filepath.Join(args[0], "man"+section)); err != nil {
				return fmt.Errorf("writing manual pages: %w", err)
			}
			if err := writeCompletions(root, args[0]); err != nil {
				return fmt.Errorf("writing shell completions: %w", err)
			}
			return nil
		},
	})
}

// writeManual writes a page for every command to dir.
func writeManual(root *cobra.Command, section, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // for everybody to read
		return err
	}
	build := version.Of(root.Name())
	made, err := dateOf(build)
	if err != nil {
		return err
	}
	forgetHome(root)
	root.DisableAutoGenTag = true // it holds the time
	return doc.GenManTree(root, &doc.GenManHeader{Section: section, Date: &made, Source: build.String(), Manual: "Brisk"}, dir)
}

// dateOf returns the date of a build, or if it has none what SOURCE_DATE_EPOCH says.
func dateOf(build version.Info) (time.Time, error) {
	if date, err := time.Parse(time.RFC3339, build.Date); err == nil {
		return date.UTC(), nil
	}
	seconds, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	if err != nil {
		return time.Time{}, errors.New("this build has no date, and SOURCE_DATE_EPOCH is not set")
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// forgetHome writes ~ for the home directory in what flags are by default.
func forgetHome(cmd *cobra.Command) {
	home, err := os.UserHomeDir()
	if err != nil || home == "/" {
		return
	}
	forget := func(f *pflag.Flag) {
		if rest, ok := strings.CutPrefix(f.DefValue, home+"/"); ok {
			f.DefValue = "~/" + rest
		}
	}
	cmd.Flags().VisitAll(forget)
	cmd.PersistentFlags().VisitAll(forget)
	for _, c := range cmd.Commands() {
		forgetHome(c)
	}
}

// writeCompletions writes a file for every shell, each with the name that it looks for, to
// directories below dir.
func writeCompletions(root *cobra.Command, dir string) error {
	name := root.Name()
	for _, shell := range []struct {
		file  string
		write func(path string) error
	}{
		{"bash/" + name, func(path string) error { return root.GenBashCompletionFileV2(path, true) }},
		{"zsh/_" + name, root.GenZshCompletionFile},
		{"fish/" + name + ".fish", func(path string) error { return root.GenFishCompletionFile(path, true) }},
	} {
		path := filepath.Join(dir, shell.file)
		//nolint:gosec // for everybody to read
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), shell.write(path)); err != nil {
			return err
		}
	}
	return nil
}
