package cli_test

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/brisk-project/brisk/internal/cli"
	"github.com/brisk-project/brisk/internal/version"
)

type result struct {
	Name string   `json:"name"`
	Size int64    `json:"sizeBytes"`
	On   []string `json:"on"`
}

func TestPrint(t *testing.T) {
	value := result{"a: b", 1 << 40, []string{"x", "true"}}
	for format, want := range map[string]string{
		cli.Text: "for people\n",
		cli.JSON: "{\n  \"name\": \"a: b\",\n  \"sizeBytes\": 1099511627776,\n  \"on\": [\n    \"x\",\n    \"true\"\n  ]\n}\n",
		cli.YAML: "name: 'a: b'\nsizeBytes: 1099511627776\n\"on\":\n  - x\n  - \"true\"\n",
	} {
		var out strings.Builder
		err := cli.Print(&out, format, value, func(w io.Writer) error {
			_, err := io.WriteString(w, "for people\n")
			return err
		})
		if err != nil || out.String() != want {
			t.Errorf("%s: %q, %v; want %q", format, out.String(), err, want)
		}
	}
	if err := cli.Print(io.Discard, "xml", value, nil); err == nil || !strings.Contains(err.Error(), `"xml"`) {
		t.Errorf("an unknown format: %v", err)
	}
}

func TestTable(t *testing.T) {
	var out strings.Builder
	for _, table := range []*cli.Table{cli.NewTable(&out), cli.NewNumericTable(&out)} {
		table.Row("NAME", "SIZE")
		table.Row("a", "1.5 KiB")
		if err := table.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if want := "NAME  SIZE\na     1.5 KiB\n   NAME      SIZE\n      a   1.5 KiB\n"; out.String() != want {
		t.Errorf("%q", out.String())
	}
	failed := cli.NewTable(full{})
	failed.Row("a")
	if err := failed.Flush(); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("to a full disk: %v", err)
	}
}

// full takes nothing.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

func TestFlags(t *testing.T) {
	var size cli.Size
	var rate cli.Rate
	if err := errors.Join(size.Set("1.5GiB"), rate.Set("200Mbit/s")); err != nil || size.String() != "1536Mi" || rate.String() != "200Mbit" {
		t.Errorf("%s, %s, %v", size.String(), rate.String(), err)
	}
	if size.Set("much") == nil || rate.Set("fast") == nil {
		t.Error("nonsense is taken for a size or a rate")
	}
}

func TestVersion(t *testing.T) {
	for _, args := range [][]string{{"version"}, {"--version"}, {"version", "-o", "json"}, {"version", "-o", "yaml"}} {
		root := &cobra.Command{Use: "brisk-node", SilenceErrors: true}
		cli.AddVersion(root, func(i *version.Info) { i.Kernel = "6.12.1" })
		var out strings.Builder
		root.SetOut(&out)
		root.SetArgs(args)
		if err := root.Execute(); err != nil {
			t.Fatal(err)
		}
		for _, part := range []string{"brisk-node", "commit", "date", "go1.", "linux/", "6.12.1"} {
			if !strings.Contains(out.String(), part) {
				t.Errorf("%q is missing in the output of %q:\n%s", part, args, out.String())
			}
		}
	}
}
