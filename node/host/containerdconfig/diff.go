package containerdconfig

import (
	"fmt"
	"slices"
	"strings"
)

// context is how many lines around a change are shown.
const context = 2

// Diff shows changes to somebody who reads them: lines that go with a minus, lines that
// come with a plus, and a few around them.
func Diff(changes []Change) string {
	var b strings.Builder
	for _, c := range changes {
		if strings.HasSuffix(c.Path, backupSuffix) {
			fmt.Fprintf(&b, "%s (a copy of the main file)\n", c.Path)
			continue
		}
		switch {
		case c.Old == nil:
			fmt.Fprintf(&b, "%s (new)\n", c.Path)
		case c.New == nil:
			fmt.Fprintf(&b, "%s (removed)\n", c.Path)
		default:
			fmt.Fprintf(&b, "%s\n", c.Path)
		}
		writeDiff(&b, lines(c.Old), lines(c.New))
	}
	return b.String()
}

func lines(text []byte) []string {
	if len(text) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

// edit is a line that goes (-), comes (+) or stays (space).
type edit struct {
	sign byte
	line string
}

func writeDiff(b *strings.Builder, before, after []string) {
	edits := compare(before, after)
	shown := make([]bool, len(edits))
	for i, e := range edits {
		for j := max(0, i-context); e.sign != ' ' && j < min(len(edits), i+context+1); j++ {
			shown[j] = true
		}
	}
	for i, e := range edits {
		if shown[i] {
			fmt.Fprintf(b, "%c %s\n", e.sign, e.line)
		} else if i > 0 && shown[i-1] {
			b.WriteString("  ...\n")
		}
	}
}

// compare returns a shortest list of edits, found by the length of the longest common
// part of what is left of both.
func compare(before, after []string) []edit {
	common := make([][]int, len(before)+1)
	for i := range common {
		common[i] = make([]int, len(after)+1)
	}
	for i, old := range slices.Backward(before) {
		for j, line := range slices.Backward(after) {
			if old == line {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var edits []edit
	i, j := 0, 0
	for i < len(before) || j < len(after) {
		switch {
		case i < len(before) && j < len(after) && before[i] == after[j]:
			edits = append(edits, edit{' ', before[i]})
			i, j = i+1, j+1
		case j == len(after) || i < len(before) && common[i+1][j] >= common[i][j+1]:
			edits = append(edits, edit{'-', before[i]})
			i++
		default:
			edits = append(edits, edit{'+', after[j]})
			j++
		}
	}
	return edits
}
