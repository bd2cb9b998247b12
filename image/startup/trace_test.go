package startup_test

import (
	"bytes"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/internal/block"
)

func of(layer string, first, count uint32) block.Range {
	return block.Range{Layer: block.Sum([]byte(layer)), First: first, Count: count}
}

func TestOrderOfFirstReads(t *testing.T) {
	t.Parallel()
	var r startup.Recorder
	for _, read := range []block.Range{of("a", 7, 2), of("b", 0, 1), of("a", 8, 2), of("a", 6, 1), of("a", 5, 6), of("b", 1, 1)} {
		r.Add(read)
	}
	first := r.Trace()
	want := startup.Trace{of("a", 7, 2), of("b", 0, 1), of("a", 9, 1), of("a", 6, 1), of("a", 5, 1), of("a", 10, 1), of("b", 1, 1)}
	if diff := cmp.Diff(want, first); diff != "" {
		t.Errorf("trace:\n%s", diff)
	}
	both := first.Union(startup.Trace{of("c", 3, 2), of("a", 10, 2)})
	if diff := cmp.Diff(append(want, of("c", 3, 2), of("a", 11, 1)), both); diff != "" {
		t.Errorf("with what another start has read:\n%s", diff)
	}
	if first.Blocks() != 8 || both.Blocks() != 11 {
		t.Errorf("%d and %d blocks, want 8 and 11", first.Blocks(), both.Blocks())
	}
}

func TestBounds(t *testing.T) {
	t.Parallel()
	var r startup.Recorder
	r.Add(of("a", math.MaxUint32-2, 100))
	r.Add(of("b", 0, math.MaxUint32))
	r.Add(of("c", 0, 1))
	got := r.Trace()
	if got.Blocks() != startup.MaxBlocks || !r.Full() || got[0].Count != 2 {
		t.Errorf("%d blocks, full %v, the first %v", got.Blocks(), r.Full(), got[0])
	}
	// The longest one there can be.
	var many startup.Recorder
	for i := range uint32(startup.MaxBlocks) {
		many.Add(of(string(rune(i)), math.MaxUint32-i-1, 1))
	}
	encoded, err := many.Trace().Encode()
	if err != nil {
		t.Fatal(err)
	}
	if back, err := startup.Parse(encoded); err != nil || back.Blocks() != startup.MaxBlocks {
		t.Errorf("%d bytes, %d blocks of it read again: %v", len(encoded), back.Blocks(), err)
	}
}

func FuzzParse(f *testing.F) {
	encode := func(t startup.Trace) []byte {
		encoded, err := t.Encode()
		if err != nil {
			f.Fatal(err)
		}
		return encoded
	}
	good := encode(startup.Trace{of("a", 7, 2), of("b", 0, 1), of("a", 9, 1)})
	f.Add(good)
	f.Add(encode(nil))
	for _, bad := range [][]byte{
		nil, good[:40], bytes.Replace(good, []byte("trace 1"), []byte("trace 2"), 1), bytes.Replace(good, []byte("9,1"), []byte("8,1"), 1),
		encode(startup.Trace{of("a", 7, 2), of("a", 8, 1)}), encode(startup.Trace{of("a", 0, startup.MaxBlocks+1)}),
		encode(startup.Trace{of("a", math.MaxUint32-1, 4)}), signed(`{"layers":[],"runs":[[0,0,1]]}`), signed(`{"runs":[[0`),
	} {
		if got, err := startup.Parse(bad); err == nil {
			f.Errorf("%q was read as %v", bad, got)
		}
		f.Add(bad)
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		for _, encoded := range [][]byte{content, signed(string(content))} {
			got, err := startup.Parse(encoded)
			if err != nil {
				continue
			}
			again, err := got.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if back, err := startup.Parse(again); err != nil || !cmp.Equal(got, back) || got.Blocks() > startup.MaxBlocks {
				t.Errorf("%v was read as %v: %v", got, back, err)
			}
		}
	})
}

// signed returns a body below its first line.
func signed(body string) []byte {
	return []byte("brisk trace 1 " + block.Sum([]byte(body)).String() + "\n" + body)
}
