package wire

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/brisk-project/brisk/internal/block"
)

const specification = "../../docs/p2p-protocol.md"

// examples returns the frames that the specification shows, by name. In a line the
// bytes end at two spaces, what follows is explanation.
func examples(t *testing.T, text string) map[string][]byte {
	t.Helper()
	frames := make(map[string][]byte)
	name := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch opened, ok := strings.CutPrefix(line, "```hex "); {
		case ok:
			name = opened
		case line == "```":
			name = ""
		case name != "":
			digits, _, _ := strings.Cut(line, "  ")
			b, err := hex.DecodeString(strings.ReplaceAll(digits, " ", ""))
			if err != nil {
				t.Fatalf("example %s, line %q: %v", name, line, err)
			}
			frames[name] = append(frames[name], b...)
		}
	}
	return frames
}

// TestSpecification compares the example and the tables of the specification with
// the code.
func TestSpecification(t *testing.T) {
	b, err := os.ReadFile(specification)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	zero, last := block.Sum(make([]byte, block.Size)), []byte("brisk")
	tail := block.Sum(last)
	layer := block.StreamID(8*block.Size+int64(len(last)), append(bytes.Repeat(zero[:], 8), tail[:]...))
	want := map[string][]byte{
		"WANT":  Request(Header{Type: TypeWant, ID: 7, First: 5, Count: 4, Mask: 0b1011, Millis: 1000}, layer),
		"BLOCK": append(Header{Type: TypeBlock, ID: 7, First: 8, Count: 1, Length: uint32(len(last))}.Append(nil), last...),
		"END":   Header{Type: TypeEnd, Status: StatusMissing, ID: 7, First: 5, Count: 4, Mask: 0b0011}.Append(nil),
	}
	shown := examples(t, text)
	for name, frame := range want {
		if !bytes.Equal(shown[name], frame) {
			t.Errorf("example %s of %s\n%s\nis encoded as\n%s", name, specification, hex.Dump(shown[name]), hex.Dump(frame))
		}
	}
	rows := []string{
		Protocol, hex.EncodeToString(layer[:]),
		fmt.Sprintf("A header of %d bytes", HeaderSize), fmt.Sprintf("Count is 1 to %d;", MaxBlocks),
		fmt.Sprintf("At most %d requests of a stream are open", MaxOpen), fmt.Sprintf("Length 1 to %d,%03d.", MaxPayload/1000, MaxPayload%1000),
		fmt.Sprintf("| 0 | 1 | Version | %d |", Version),
	}
	for s := StatusDone; s <= StatusRefused; s++ {
		rows = append(rows, fmt.Sprintf("| %d | %s |", s, s))
	}
	for i, name := range []string{"WANT", "OBJECT", "CANCEL", "BLOCK", "CHUNK", "END"} {
		rows = append(rows, fmt.Sprintf("| %d | %s |", []Type{TypeWant, TypeObject, TypeCancel, TypeBlock, TypeChunk, TypeEnd}[i], name))
	}
	missing := slices.DeleteFunc(rows, func(row string) bool { return strings.Contains(text, row) })
	if len(missing) > 0 {
		t.Errorf("%s does not say\n%s", specification, strings.Join(missing, "\n"))
	}
}
