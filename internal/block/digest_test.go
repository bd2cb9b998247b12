package block_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/brisk-project/brisk/internal/block"
)

func TestParseDigest(t *testing.T) {
	// From FIPS 180-2, for the input "abc".
	const abc = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
	if got := block.Sum([]byte("abc")); got.String() != abc {
		t.Errorf("Sum(abc) = %s, want %s", got, abc)
	}
	got, err := block.ParseDigest(abc)
	if err != nil || got != block.Sum([]byte("abc")) {
		t.Errorf("ParseDigest(%s) = %s, %v", abc, got, err)
	}
	for _, bad := range []string{
		"", "sha256:", abc[:70], abc + "0", strings.ToUpper(abc), abc[7:], "sha512:" + abc[7:], strings.Replace(abc, "b", "g", 1),
		strings.Replace(abc, "b", "B", 1), "sha256:" + strings.Repeat("é", 32),
	} {
		if d, err := block.ParseDigest(bad); err == nil || !d.IsZero() {
			t.Errorf("ParseDigest(%q) = %s, %v; want an error", bad, d, err)
		}
	}
}

func TestDigestText(t *testing.T) {
	type doc struct{ D block.Digest }
	in := doc{D: block.Sum([]byte("abc"))}
	data, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var out doc
	if err := json.Unmarshal(data, &out); err != nil || out != in {
		t.Errorf("%s decodes as %v, error %v", data, out, err)
	}
	if err := json.Unmarshal([]byte(`{"D":"sha256:nonsense"}`), &out); err == nil || out != in {
		t.Errorf("a bad digest decodes as %v, error %v", out, err)
	}
}

func FuzzParseDigest(f *testing.F) {
	f.Add(block.Sum(nil).String())
	f.Add("sha256:")
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := block.ParseDigest(s); err == nil && d.String() != s {
			t.Errorf("%q parses as %s", s, d)
		}
	})
}

func TestError(t *testing.T) {
	err := error(&block.Error{
		Source: "peer", Op: "verifying", Err: block.ErrCorrupt,
		Range: block.Range{Layer: block.Sum([]byte("abc")), First: 3, Count: 2},
	})
	if want := "verifying blocks ba7816bf8f01/3-4 from peer: block corrupt"; err.Error() != want {
		t.Errorf("error is %q, want %q", err, want)
	}
	if !errors.Is(err, block.ErrCorrupt) {
		t.Error("the cause is lost")
	}
}

func TestClassNames(t *testing.T) {
	for c, want := range map[block.Class]string{
		block.ClassRead: "read", block.ClassHead: "head", block.ClassTail: "tail", block.ClassFill: "fill", 9: "class 9",
	} {
		if got := c.String(); got != want {
			t.Errorf("class %d is named %q, want %q", c, got, want)
		}
	}
}
