package main

import (
	"testing"

	"github.com/brisk-project/brisk/test/docs"
)

func TestDocumentedCommandsExist(t *testing.T) { docs.CheckCommands(t, "brisk", newRootCommand) }
