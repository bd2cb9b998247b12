package cli_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/brisk-project/brisk/internal/cli"
)

// program returns one with a command whose flag depends on the home directory.
func program() *cobra.Command {
	root := &cobra.Command{Use: "example", Short: "An example", SilenceErrors: true, SilenceUsage: true}
	list := &cobra.Command{Use: "list", Short: "List things", Run: func(*cobra.Command, []string) {}}
	home, err := os.UserHomeDir()
	if err != nil {
		panic(err)
	}
	list.Flags().String("cache", filepath.Join(home, ".cache"), "where the cache is")
	root.AddCommand(list)
	cli.AddVersion(root, nil)
	cli.AddDocs(root, "8")
	return root
}

func TestDocsAreTheSameEverywhere(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	write := func(home, zone string) map[string]string {
		t.Setenv("HOME", home)
		t.Setenv("TZ", zone)
		dir, root := t.TempDir(), program()
		root.SetArgs([]string{"docs", dir})
		if err := root.Execute(); err != nil {
			t.Fatal(err)
		}
		files := make(map[string]string)
		for _, path := range []string{
			"man8/example.8", "man8/example-list.8", "man8/example-version.8", "bash/example", "zsh/_example", "fish/example.fish",
		} {
			content, err := os.ReadFile(filepath.Join(dir, path))
			if err != nil {
				t.Fatal(err)
			}
			files[path] = string(content)
		}
		if _, err := os.Stat(filepath.Join(dir, "man8/example-docs.8")); err == nil {
			t.Error("the hidden command has a page")
		}
		return files
	}
	files := write("/home/one", "Asia/Tokyo")
	for path, content := range write("/home/other", "UTC") {
		if files[path] != content {
			t.Errorf("%s depends on the machine", path)
		}
	}
	for path, part := range map[string]string{
		"man8/example-list.8": "~/.cache", "man8/example.8": "Nov 2023", "bash/example": "complete", "zsh/_example": "#compdef example",
		"fish/example.fish": "complete",
	} {
		if !strings.Contains(files[path], part) {
			t.Errorf("%q is missing in %s:\n%s", part, path, files[path])
		}
	}
}

func TestDocsNeedADate(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "")
	root := program()
	root.SetArgs([]string{"docs", t.TempDir()})
	if err := root.Execute(); err == nil || !strings.Contains(err.Error(), "date") {
		t.Errorf("without a date: %v", err)
	}
}
