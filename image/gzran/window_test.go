package gzran

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"
)

// pattern makes a window and the bytes of it that are used, from a seed.
func pattern(seed uint64, density int) (window [windowSize]byte, used [windowSize]bool) {
	rnd := rand.New(rand.NewPCG(seed, 0))
	for i := range window {
		window[i] = byte(rnd.Uint32())
	}
	for at := rnd.IntN(windowSize); at < windowSize && density > 0; at += rnd.IntN(windowSize / density) {
		n := min(3+rnd.IntN(20), windowSize-at)
		for i := range n {
			used[at+i] = true
		}
		at += n
	}
	return window, used
}

// checkWindow packs a window and unpacks it again.
func checkWindow(t *testing.T, window *[windowSize]byte, used *[windowSize]bool) {
	t.Helper()
	var p packer
	packed, err := p.pack(window, used)
	if err != nil {
		t.Fatal(err)
	}
	again, err := p.pack(window, used)
	if err != nil || !bytes.Equal(packed, again) {
		t.Fatalf("packed twice, two results: %v", err)
	}
	f := new(stream)
	f.reset(bytes.NewReader(nil), 0, 0)
	for i := range f.out {
		f.out[i] = 0xee
	}
	if err := f.unpackWindow(packed); err != nil {
		t.Fatal(err)
	}
	first := nextUsed(used, 0)
	if f.op != windowSize || f.floor != first {
		t.Fatalf("window from %d to %d, want from %d", f.floor, f.op, first)
	}
	for i, u := range used {
		if u && f.out[i] != window[i] {
			t.Fatalf("byte %d differs", i)
		}
	}
}

func TestWindow(t *testing.T) {
	t.Parallel()
	for density := range 40 {
		window, used := pattern(uint64(density), density*density*4)
		checkWindow(t, &window, &used)
	}
	var window [windowSize]byte
	var all, edges, every [windowSize]bool
	for i := range windowSize {
		all[i] = true
		edges[i] = i == 0 || i == windowSize-1
		every[i] = i%(mergeGap+2) == 0
	}
	checkWindow(t, &window, &all)
	checkWindow(t, &window, &edges)
	checkWindow(t, &window, &every)
}

// packText packs the text of a window as it is, right or wrong.
func packText(tb testing.TB, text []byte) []byte {
	tb.Helper()
	var p packer
	packed, err := p.deflate(text)
	if err != nil {
		tb.Fatal(err)
	}
	return packed
}

func TestWindowRejects(t *testing.T) {
	t.Parallel()
	numbers := func(vs ...uint64) []byte {
		var b []byte
		for _, v := range vs {
			b = binary.AppendUvarint(b, v)
		}
		return b
	}
	good := packText(t, append(numbers(1, 100, 3), "abc"...))
	for name, packed := range map[string][]byte{
		"truncated":         good[:len(good)-1],
		"bytes behind":      append(bytes.Clone(good), 0),
		"empty text":        packText(t, nil),
		"no runs":           packText(t, numbers(0)),
		"too many runs":     packText(t, numbers(40_000)),
		"runs missing":      packText(t, numbers(2, 1, 1)),
		"empty run":         packText(t, numbers(1, 1, 0)),
		"past the window":   packText(t, append(numbers(1, 32766, 3), "abc"...)),
		"data missing":      packText(t, append(numbers(1, 0, 3), "ab"...)),
		"data left":         packText(t, append(numbers(1, 0, 3), "abcd"...)),
		"number too large":  packText(t, numbers(1, 1<<40, 3)),
		"grows beyond size": packText(t, make([]byte, 10<<20)),
	} {
		f := new(stream)
		f.reset(bytes.NewReader(nil), 0, 0)
		if err := f.unpackWindow(packed); !errors.Is(err, errWindow) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzWindow unpacks anything, as it is and as the text of a window, and packs what
// the bytes describe.
func FuzzWindow(f *testing.F) {
	window, used := pattern(1, 300)
	var p packer
	packed, err := p.pack(&window, &used)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(packed, uint64(1), 300)
	f.Add([]byte{2, 5, 3, 10, 1, 'a', 'b', 'c', 'd'}, uint64(2), 4000)
	f.Fuzz(func(t *testing.T, b []byte, seed uint64, density int) {
		var s stream
		for _, packed := range [][]byte{b, packText(t, b)} {
			s.reset(bytes.NewReader(nil), 0, 0)
			err := s.unpackWindow(packed)
			if err != nil && !errors.Is(err, errWindow) {
				t.Fatal(err)
			}
			if err == nil && (s.op != windowSize || s.floor < 0 || s.floor > windowSize) {
				t.Fatalf("window from %d to %d", s.floor, s.op)
			}
		}
		window, used := pattern(seed, max(0, density)%8000)
		checkWindow(t, &window, &used)
	})
}
