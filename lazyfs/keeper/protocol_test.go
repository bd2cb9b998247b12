package keeper

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMessages(t *testing.T) {
	t.Parallel()
	for _, m := range []message{
		{kind: kindPut, text: "brisk-1"},
		{kind: kindRemove, text: "a.b"},
		{kind: kindTake},
		{kind: kindSession, text: "x"},
		{kind: kindFailed, text: strings.Repeat("x", 300)},
	} {
		got, err := parseMessage(m.encode())
		if err != nil || got.kind != m.kind || !strings.HasPrefix(m.text, got.text) {
			t.Errorf("%v became %v, error %v", m, got, err)
		}
	}
}

func FuzzMessage(f *testing.F) {
	for k := range kindEnd + 1 {
		f.Add(message{kind: k, text: "brisk-0123456789abcdef"}.encode())
	}
	f.Add([]byte("BRK1"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMessage(b)
		if err == nil && !bytes.Equal(m.encode(), b) {
			t.Errorf("%q is read as %v", b, m)
		}
	})
}

func FuzzDescriptors(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, 15))
	f.Fuzz(func(_ *testing.T, control []byte) {
		if len(control) >= unix.SizeofCmsghdr && binary.NativeEndian.Uint32(control[12:]) == unix.SCM_RIGHTS {
			return // the numbers would be closed, and belong to others here
		}
		_, _ = descriptors(control) //nolint:errcheck // only that it returns
	})
}

func FuzzRefusal(f *testing.F) {
	f.Add(make([]byte, inHeaderSize))
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, request []byte) {
		if answer, ok := refusal(request); ok && (len(answer) != outHeaderSize || !bytes.Equal(answer[8:], request[8:16])) {
			t.Errorf("the answer to % x is % x", request, answer)
		}
	})
}
