package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/brisk-project/brisk/test/registrytest"
)

// ciCommands returns the command lines of brisk in the strings of a document: in a line of a shell after the
// program or its image, or the arguments of a step.
func ciCommands(node *yaml.Node) [][]string {
	var found [][]string
	for i, child := range node.Content {
		if child.Value == "args" && node.Kind == yaml.MappingNode {
			var args []string
			for _, arg := range node.Content[i+1].Content {
				args = append(args, arg.Value)
			}
			found = append(found, args)
			continue
		}
		found = append(found, ciCommands(child)...)
	}
	for line := range strings.Lines(node.Value) {
		words := strings.Fields(strings.ReplaceAll(line, `"`, ""))
		at := slices.Index(words, "$BRISK")
		if len(words) > 1 && words[0] == "brisk" {
			at = 0
		}
		if at >= 0 {
			found = append(found, words[at+1:])
		}
	}
	return found
}

// Each command line of the examples for CI runs.
func TestExamplesForCI(t *testing.T) {
	files, err := filepath.Glob("../../docs/ci/*.yaml")
	if err != nil || len(files) != 3 {
		t.Fatalf("examples %v, %v", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var document yaml.Node
			if err := yaml.Unmarshal(content, &document); err != nil {
				t.Fatal(err)
			}
			commands := ciCommands(&document)
			if len(commands) != 2 || commands[0][0] != "convert" {
				t.Fatalf("commands %q", commands)
			}
			reg := registrytest.New(t, registrytest.Config{})
			image := pushImage(t, reg, "app:v1")
			fill := strings.NewReplacer("$IMAGE", image, "$(params.image)", image, "$(params.mode)", "index")
			for _, args := range commands {
				for i := range args {
					args[i] = fill.Replace(args[i])
				}
				run(t, args...)
			}
			run(t, "verify", image+"_accelerated")
		})
	}
}
