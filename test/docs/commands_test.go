package docs

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

func TestCommands(t *testing.T) {
	const page = "Run `a b --flag` or `c | d`.\n" +
		"```sh\n" +
		"X=1 one 'a b' \"c d\" e\\ f $(g h) # comment\n" +
		"two --long \\\n  --more >out 2>&1 <in && three; four|five &\n" +
		"```\n" +
		"```yaml\nnot: one\n```\n" +
		"| a `six 'x\\|y'` |\n"
	want := []Command{
		{"p", 1, []string{"a", "b", "--flag"}, false},
		{"p", 1, []string{"c"}, false},
		{"p", 1, []string{"d"}, false},
		{"p", 3, []string{"one", "a b", "c d", "e f", "$(g h)"}, true},
		{"p", 4, []string{"two", "--long", "--more"}, true},
		{"p", 4, []string{"three"}, true},
		{"p", 4, []string{"four"}, true},
		{"p", 4, []string{"five"}, true},
		{"p", 10, []string{"six", "x|y"}, false},
	}
	if diff := cmp.Diff(want, Commands("p", page)); diff != "" {
		t.Error(diff)
	}
	if got := Samples(page); len(got) != 1 || got[0][:3] != "X=1" {
		t.Errorf("%q", got)
	}
}

// TestParse checks that what does not exist is found.
func TestParse(t *testing.T) {
	newRoot := func() *cobra.Command {
		root := &cobra.Command{Use: "program", SilenceUsage: true}
		list := &cobra.Command{Use: "list NAME", Args: cobra.ExactArgs(1), RunE: func(*cobra.Command, []string) error { return nil }}
		list.Flags().Int("depth", 1, "")
		group := &cobra.Command{Use: "group"}
		group.AddCommand(&cobra.Command{Use: "add", Args: cobra.NoArgs, RunE: list.RunE})
		root.AddCommand(list, group)
		return root
	}
	for _, c := range []struct {
		args   []string
		sample bool
		ok     bool
	}{
		{[]string{"list", "--depth", "2", "x"}, true, true},
		{[]string{"list", "--help"}, true, true},
		{[]string{"list"}, false, true},
		{[]string{"list", "--depth"}, false, true},
		{[]string{"list", "--depth"}, true, false},
		{[]string{"help", "list"}, true, true},
		{[]string{"completion", "bash"}, true, true},
		{[]string{"group", "add"}, true, true},
		{[]string{"list"}, true, false},
		{[]string{"list", "--deep", "x"}, false, false},
		{[]string{"list", "--depth", "deep", "x"}, false, false},
		{[]string{"remove"}, false, false},
		{[]string{"group", "remove"}, false, false},
	} {
		if err := parse(newRoot(), c.args, c.sample); (err == nil) != c.ok {
			t.Errorf("%q: %v", c.args, err)
		}
	}
	for _, c := range []struct {
		words []string
		want  []string
		ok    bool
	}{
		{[]string{"kubectl", "brisk", "top"}, []string{"top"}, true},
		{[]string{"kubectl", "get"}, nil, false},
		{[]string{"/usr/bin/kubectl", "brisk"}, nil, true},
	} {
		got, ok := Command{Words: c.words}.argumentsOf("kubectl brisk")
		if ok != c.ok || ok && !slices.Equal(got, c.want) {
			t.Errorf("%q: %q, %v", c.words, got, ok)
		}
	}
}
