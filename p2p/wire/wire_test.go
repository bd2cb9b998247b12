package wire

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/brisk-project/brisk/internal/block"
)

func encode(h Header) *[HeaderSize]byte { return (*[HeaderSize]byte)(h.Append(nil)) }

func TestHeaderBytes(t *testing.T) {
	h := Header{
		Type: TypeWant, Class: block.ClassTail, Status: StatusBusy, Length: 32, ID: 0x0102030405060708,
		First: 0x11121314, Count: 0x20, Millis: 0x31323334, Flags: 0x41424344, Mask: 0x8182838485868788 & (1<<32 - 1), Size: 0x9192939495969798,
	}
	want := []byte{
		1, 1, 2, 2, 32, 0, 0, 0,
		8, 7, 6, 5, 4, 3, 2, 1,
		0x14, 0x13, 0x12, 0x11, 0x20, 0, 0, 0,
		0x34, 0x33, 0x32, 0x31, 0x44, 0x43, 0x42, 0x41,
		0x88, 0x87, 0x86, 0x85, 0, 0, 0, 0,
		0x98, 0x97, 0x96, 0x95, 0x94, 0x93, 0x92, 0x91,
	}
	if diff := cmp.Diff(want, encode(h)[:]); diff != "" {
		t.Errorf("encoded header (-want +got):\n%s", diff)
	}
	got, err := Decode(encode(h))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(h, got); diff != "" {
		t.Errorf("decoded header (-want +got):\n%s", diff)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, tc := range []struct {
		name string
		h    Header
	}{
		{"unknown type", Header{Type: 9}},
		{"unknown class", Header{Type: TypeCancel, Class: 4}},
		{"want without digest", Header{Type: TypeWant, Count: 1, Mask: 1}},
		{"want of nothing", Header{Type: TypeWant, Length: 32, Count: 4}},
		{"want past its count", Header{Type: TypeWant, Length: 32, Count: 4, Mask: 1 << 4}},
		{"want of too many", Header{Type: TypeWant, Length: 32, Count: 65, Mask: 1}},
		{"want that wraps", Header{Type: TypeWant, Length: 32, First: 1<<32 - 2, Count: 3, Mask: 1}},
		{"object without digest", Header{Type: TypeObject, Length: 31}},
		{"cancel with payload", Header{Type: TypeCancel, Length: 1}},
		{"end with payload", Header{Type: TypeEnd, Length: 1}},
		{"empty block", Header{Type: TypeBlock}},
		{"block too long", Header{Type: TypeBlock, Length: MaxPayload + 1}},
		{"huge chunk", Header{Type: TypeChunk, Length: 1<<32 - 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := Decode(encode(tc.h)); !errors.Is(err, ErrMalformed) {
				t.Errorf("Decode = %v, want ErrMalformed", err)
			}
		})
	}
	raw := encode(Header{Type: TypeEnd})
	raw[0] = 2
	if _, err := Decode(raw); !errors.Is(err, ErrMalformed) {
		t.Errorf("version 2: %v, want ErrMalformed", err)
	}
}

func TestReadRequest(t *testing.T) {
	layer := block.Sum([]byte("layer"))
	frame := Request(Header{Type: TypeWant, ID: 7, First: 3, Count: 2, Mask: 3}, layer)
	if len(frame) != RequestSize {
		t.Fatalf("request of %d bytes, want %d", len(frame), RequestSize)
	}
	r := bytes.NewReader(frame)
	var buf [HeaderSize]byte
	h, err := Read(r, &buf)
	if err != nil || h.ID != 7 || h.Length != 32 {
		t.Fatalf("Read = %+v, %v", h, err)
	}
	if d, err := ReadDigest(r); err != nil || d != layer {
		t.Fatalf("ReadDigest = %v, %v", d, err)
	}
	if _, err := Read(r, &buf); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v, want EOF", err)
	}
	if _, err := Read(bytes.NewReader(frame[:9]), &buf); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("inside a header: %v, want ErrUnexpectedEOF", err)
	}
}

func TestMillis(t *testing.T) {
	for d, want := range map[time.Duration]uint32{
		-time.Second: 0, 0: 0, 1: 1, time.Millisecond: 1, time.Millisecond + 1: 2, time.Second: 1000, 1 << 62: 1<<32 - 1,
	} {
		if got := Millis(d); got != want {
			t.Errorf("Millis(%v) = %d, want %d", d, got, want)
		}
	}
}

// FuzzRead reads arbitrary bytes as a sequence of frames, the way both ends of a
// stream do: whatever is accepted must be within the limits and encode back to
// the bytes it came from.
func FuzzRead(f *testing.F) {
	f.Add(Request(Header{Type: TypeWant, ID: 1, First: 5, Count: 16, Mask: 0xffff, Millis: 250}, block.Sum(nil)))
	f.Add(Request(Header{Type: TypeObject, ID: 2, Size: 1 << 20}, block.Sum(nil)))
	f.Add(Request(Header{Type: TypeObject, ID: 3, Size: 1 << 20, Flags: FlagHint}, HintName("trace/1", block.Sum(nil))))
	f.Add(Header{Type: TypeCancel, ID: 1}.Append(nil))
	f.Add(append(Header{Type: TypeBlock, ID: 1, First: 5, Length: 3}.Append(nil), "abc"...))
	f.Add(append(Header{Type: TypeChunk, ID: 2, Size: 3, Length: 3}.Append(nil), "abc"...))
	f.Add(Header{Type: TypeEnd, ID: 1, Status: StatusMissing, Mask: 0xf0}.Append(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		var buf [HeaderSize]byte
		for {
			at := len(data) - r.Len()
			h, err := Read(r, &buf)
			if err != nil {
				return
			}
			if h.Length > MaxPayload || h.Count > MaxBlocks && h.Type == TypeWant {
				t.Fatalf("accepted %+v", h)
			}
			raw := bytes.Clone(data[at : at+HeaderSize])
			if !bytes.Equal(h.Append(nil), raw) {
				t.Fatalf("%x decoded to %+v, which encodes to %x", raw, h, h.Append(nil))
			}
			if _, err := io.CopyN(io.Discard, r, int64(h.Length)); err != nil {
				return
			}
		}
	})
}
