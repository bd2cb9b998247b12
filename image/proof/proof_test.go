package proof_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/image/index/indextest"
	"github.com/brisk-project/brisk/image/proof"
	"github.com/brisk-project/brisk/internal/block"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// member is a member of a tar.
type member struct {
	tar.Header

	data string
}

// Bytes of a and b are of the same length, and longer than a block in all.
func members() []member {
	at := time.Unix(1_700_000_000, 0)
	return []member{
		{tar.Header{Typeflag: tar.TypeDir, Name: "etc/", Mode: 0o755, ModTime: at}, ""},
		{tar.Header{Name: "etc/a", Mode: 0o644, ModTime: at}, strings.Repeat("a", 200_000)},
		{tar.Header{Name: "etc/b", Mode: 0o644, ModTime: at, Format: tar.FormatPAX, PAXRecords: map[string]string{"SCHILY.xattr.user.note": "true"}}, strings.Repeat("b", 200_000)},
		{tar.Header{Name: "etc/.wh.gone", Mode: 0o644, ModTime: at}, ""},
		{tar.Header{Typeflag: tar.TypeSymlink, Name: "link", Linkname: "etc/a", ModTime: at}, ""},
	}
}

func tarOf(t *testing.T, all []member) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, m := range all {
		m.Size = int64(len(m.data))
		if err := w.WriteHeader(&m.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(m.data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// prove gives a stream to a Prover block by block.
func prove(t *testing.T, stream []byte) proof.RebuiltIndex {
	t.Helper()
	p := proof.New(t.Context(), nil)
	for off := 0; off < len(stream); off += block.Size {
		p.Write(stream[off:min(off+block.Size, len(stream))])
	}
	truth, err := p.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return truth
}

func open(t *testing.T, encoded []byte) *index.Layer {
	t.Helper()
	layer, err := index.Open(bytes.NewReader(encoded), int64(len(encoded)))
	if err != nil {
		t.Fatal(err)
	}
	return layer
}

func gzipped(t *testing.T, parts ...[]byte) []byte {
	t.Helper()
	var out bytes.Buffer
	for _, part := range parts {
		w := gzip.NewWriter(&out)
		if _, err := w.Write(part); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return out.Bytes()
}

// requireFalse checks that both ways to compare find an index false, for that reason.
func requireFalse(t *testing.T, truth proof.RebuiltIndex, encoded []byte, want string) {
	t.Helper()
	layer := open(t, encoded)
	if err := truth.Check(layer); !errors.Is(err, proof.ErrFalse) || !strings.Contains(err.Error(), want) {
		t.Errorf("the truth says %v, want %q", err, want)
	}
	if err := truth.StreamDigests.Check(layer); !errors.Is(err, proof.ErrFalse) {
		t.Errorf("the facts say %v", err)
	}
}

// Indexes of the same stream are true whichever way the blob is stored: in one gzip member,
// in several, in none, and with bytes after the end of the tar.
func TestTrueIndexes(t *testing.T) {
	t.Parallel()
	whole := tarOf(t, members())
	for name, stream := range map[string][]byte{
		"tar": whole, "padded": append(bytes.Clone(whole), make([]byte, 700_000)...),
		"junk behind": append(bytes.Clone(whole), []byte("anything at all")...),
	} {
		truth := prove(t, stream)
		if truth.DiffID != block.Sum(stream) {
			t.Errorf("%s: the diffID is %s", name, truth.DiffID)
		}
		for i, blob := range [][]byte{stream, gzipped(t, stream), gzipped(t, stream[:100_000], stream[100_000:])} {
			layer := open(t, indextest.Build(t, blob).Encoded)
			if err := errors.Join(truth.Check(layer), truth.StreamDigests.Check(layer)); err != nil {
				t.Errorf("%s, packing %d: %v", name, i, err)
			}
		}
	}
}

// The name of its first file makes a tar look like gzip. It is one all the same.
func TestTarThatLooksLikeGzip(t *testing.T) {
	t.Parallel()
	stream := tarOf(t, []member{{tar.Header{Name: "\x1f\x8b\x08", Mode: 0o644}, "x"}})
	if truth := prove(t, stream); truth.Invalid != "" || truth.DiffID != block.Sum(stream) {
		t.Errorf("the facts are %+v", truth.StreamDigests)
	}
}

// Every kind of lie about entries is found.
func TestForgedEntries(t *testing.T) {
	t.Parallel()
	stream := tarOf(t, members())
	truth := prove(t, stream)
	for name, lie := range map[string]struct {
		edit func([]member) []member
		want string
	}{
		"two files exchanged": {func(m []member) []member {
			m[1].Name, m[2].Name = m[2].Name, m[1].Name
			return m
		}, `entry "etc/b" where the tar has "etc/a"`},
		"set-user-ID bit": {func(m []member) []member {
			m[1].Mode |= 0o4000
			return m
		}, "mode, which is 644 and not 4644"},
		"owner": {func(m []member) []member {
			m[1].Uid = 1
			return m
		}, "owner"},
		"additional set-user-ID file": {func(m []member) []member {
			return append(m[:4:4], member{Header: tar.Header{Name: "su", Mode: 0o4755}, data: "x"})
		}, `entry "su" where the tar has "link"`},
		"size": {func(m []member) []member {
			m[1].data = m[1].data[:1000]
			return m
		}, "size"},
		"entry after the last": {func(m []member) []member {
			return append(m, member{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: "zz", Linkname: "etc/b"}})
		}, `entry "zz", which the tar has not`},
		"file left out":       {func(m []member) []member { return append(m[:2:2], m[3:]...) }, `entry "etc/.wh.gone" where the tar has "etc/b"`},
		"last entry left out": {func(m []member) []member { return m[:4] }, `lacks entry "link"`},
		"whiteout hidden":     {func(m []member) []member { return append(m[:3:3], m[4:]...) }, `entry "link" where the tar has "etc/.wh.gone"`},
		"extended attribute": {func(m []member) []member {
			m[2].PAXRecords = map[string]string{"SCHILY.xattr.user.note": "fals"}
			return m
		}, "extended attributes"},
		"link target": {func(m []member) []member {
			m[4].Linkname = "etc/b"
			return m
		}, "link target"},
		"time": {func(m []member) []member {
			m[0].ModTime = time.Unix(1, 0)
			return m
		}, "time"},
		"type": {func(m []member) []member {
			m[0].Typeflag, m[0].Name = tar.TypeFifo, "etc"
			return m
		}, "type"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			other := indextest.Build(t, tarOf(t, lie.edit(members())))
			for _, blob := range [][]byte{stream, gzipped(t, stream)} {
				requireFalse(t, truth, indextest.WithEntries(t, indextest.Build(t, blob).Encoded, other.Encoded), lie.want)
			}
		})
	}
}

// A file that is read from another place of the stream is a lie, and so is one of a tar
// whose entries are the same at other places.
func TestMovedContent(t *testing.T) {
	t.Parallel()
	stream := tarOf(t, members())
	moved := members()
	moved[1].Format, moved[1].PAXRecords = tar.FormatPAX, map[string]string{"comment": "another header in front"}
	other := indextest.Build(t, tarOf(t, moved))
	requireFalse(t, prove(t, stream), indextest.WithEntries(t, indextest.Build(t, stream).Encoded, other.Encoded), "content")
}

func TestForgedDiffID(t *testing.T) {
	t.Parallel()
	stream := tarOf(t, members())
	forged := indextest.WithDiffID(t, indextest.Build(t, gzipped(t, stream)), block.Sum([]byte("another layer")))
	requireFalse(t, prove(t, stream), forged, block.Sum(stream).String())
}

// A stream that is no tar, or ends early, makes every index of it false. The writer does
// not wait for ever.
func TestStreamThatIsNoTar(t *testing.T) {
	t.Parallel()
	stream := tarOf(t, members())
	claimed := indextest.Build(t, stream).Encoded
	for name, bad := range map[string][]byte{
		"noise": bytes.Repeat([]byte("noise"), 1<<20), "truncated": stream[:300_000],
	} {
		truth := prove(t, bad)
		if truth.Invalid == "" {
			t.Errorf("%s: the facts are %+v", name, truth.StreamDigests)
		}
		requireFalse(t, truth, claimed, "cannot be unpacked")
	}
}

// The empty stream is one without entries.
func TestEmptyStream(t *testing.T) {
	t.Parallel()
	truth := prove(t, nil)
	if truth.DiffID != block.Sum(nil) {
		t.Errorf("the facts are %+v", truth.StreamDigests)
	}
	requireFalse(t, truth, indextest.WithDiffID(t, indextest.Build(t, gzipped(t, nil)), block.Sum([]byte("base"))), "diffID")
}

// A Prover whose context ends does not take that for a fault of the stream.
func TestContextEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	p := proof.New(ctx, nil)
	p.Write(tarOf(t, members())[:block.Size])
	cancel()
	if truth, err := p.Finish(); !errors.Is(err, context.Canceled) {
		t.Errorf("the facts are %+v, %v", truth.StreamDigests, err)
	}
}

// A Prover that is not given everything ends.
func TestDiscard(t *testing.T) {
	t.Parallel()
	p := proof.New(t.Context(), nil)
	p.Write(tarOf(t, members())[:block.Size])
	p.Discard()
}

// Digests of blocks that are known are taken as they are, others are computed; the facts are the
// same, and no block is hashed by itself that need not be.
func TestKnownBlockDigests(t *testing.T) {
	t.Parallel()
	stream := tarOf(t, members())
	want := prove(t, stream)
	var asked []uint32
	p := proof.New(t.Context(), func(i uint32) (block.Digest, bool) {
		asked = append(asked, i)
		at := stream[int64(i)*block.Size:]
		return block.Sum(at[:min(block.Size, len(at))]), i%2 == 0
	})
	p.Write(stream)
	truth, err := p.Finish()
	if err != nil {
		t.Fatal(err)
	}
	if truth.StreamDigests != want.StreamDigests || len(asked) != int(block.Count(int64(len(stream)))) {
		t.Errorf("the facts are %+v, want %+v; asked for %d", truth.StreamDigests, want.StreamDigests, asked)
	}
	if err := truth.Check(open(t, indextest.Build(t, stream).Encoded)); err != nil {
		t.Error(err)
	}
}
