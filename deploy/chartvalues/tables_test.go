package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	testSchema = `{"properties": {"name": {"type": "string"}, "agent": {"properties": {
		"on": {"type": "boolean"}, "where": {"type": "object"}, "deep": {"properties": {"size": {"type": "string"}}}}}}}`
	testValues = `# About the file.

# What it is called: a|b,
# in two lines.
name: "x"
# How many.
count: 3

# The agent.
agent:
  # Whether it runs.
  on: true
  # Nodes it runs on.
  where:
    kubernetes.io/os: linux
  deep:
    # Bytes.
    size: 1Gi
  # Paths.
  list:
    - a
    - {b: [1, 2]}
`
	testTables = "### General\n\n| value | default | meaning |\n| --- | --- | --- |\n" +
		"| `name` | `\"x\"` | What it is called: a\\|b, in two lines. |\n" +
		"| `count` | `3` | How many. |\n\n" +
		"### `agent`\n\nThe agent.\n\n| value | default | meaning |\n| --- | --- | --- |\n" +
		"| `agent.on` | `true` | Whether it runs. |\n" +
		"| `agent.where` | `{\"kubernetes.io/os\":\"linux\"}` | Nodes it runs on. |\n" +
		"| `agent.deep.size` | `\"1Gi\"` | Bytes. |\n" +
		"| `agent.list` | `[\"a\",{\"b\":[1,2]}]` | Paths. |\n\n"
)

func TestTablesHaveEveryValue(t *testing.T) {
	got, err := render([]byte(testValues), []byte(testSchema))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(testTables, got); diff != "" {
		t.Error(diff)
	}
}

func TestValueWithoutCommentIsAnError(t *testing.T) {
	for values, want := range map[string]string{
		"# The agent.\nagent:\n  on: true\n": "agent.on",
		"name: x\n":                          "name",
		"- a\n":                              "not a mapping",
		"":                                   "not a mapping",
		"a: [\n":                             "parsing values",
	} {
		if _, err := render([]byte(values), []byte(testSchema)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", values, err)
		}
	}
}

func TestRunReplacesWhatIsBetweenTheMarks(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"values.yaml": testValues, "values.schema.json": testSchema,
		"page.md": "before\n" + begin + "former\n" + end + "after\n", "other.md": "before\n" + begin,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	page := filepath.Join(dir, "page.md")
	for range 2 { // the second time changes nothing
		if err := run(dir, page); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff("before\n"+begin+"\n"+testTables+end+"after\n", string(got)); diff != "" {
			t.Error(diff)
		}
	}
	if err := run(dir, filepath.Join(dir, "other.md")); err == nil {
		t.Error("a page without the second mark is taken")
	}
}
