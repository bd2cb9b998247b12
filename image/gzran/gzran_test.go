package gzran_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/brisk-project/brisk/image/gzran"
)

// read reads a whole stream and checks the output as it comes.
func read(tb testing.TB, r io.Reader, spacing int64, want []byte) *gzran.Reader {
	tb.Helper()
	z, err := gzran.NewReader(r, gzran.Config{Spacing: spacing})
	if err != nil {
		tb.Fatal(err)
	}
	for {
		b, err := z.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			tb.Fatal(err)
		}
		if !bytes.HasPrefix(want, b) {
			tb.Fatalf("output differs in the %d bytes before the last %d", len(b), len(want)-len(b))
		}
		want = want[len(b):]
	}
	if len(want) != 0 {
		tb.Fatalf("output ends %d bytes early", len(want))
	}
	return z
}

func closing(t *testing.T, c io.Closer) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestReader(t *testing.T) {
	t.Parallel()
	for _, s := range samples(t) {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			z := read(t, bytes.NewReader(s.gz), gzran.MinSpacing, s.want)
			if z.InputSize() != int64(len(s.gz)) || z.TrailingBytes() != 0 {
				t.Errorf("InputSize %d, TrailingBytes %d; want %d, 0", z.InputSize(), z.TrailingBytes(), len(s.gz))
			}
			points := z.Checkpoints()
			checkSpacing(t, points)
			var d gzran.Decoder
			for i, cp := range points {
				checkSpan(t, &d, s, points, i)
				if i%10 == 1 {
					checkRest(t, &d, s, cp)
				}
			}
			small := read(t, iotest.HalfReader(iotest.DataErrReader(bytes.NewReader(s.gz))), gzran.MinSpacing, s.want)
			if diff := cmp.Diff(points, small.Checkpoints()); diff != "" {
				t.Errorf("checkpoints depend on how the input is read: %s", diff)
			}
		})
	}
}

func checkSpacing(t *testing.T, points []gzran.Checkpoint) {
	t.Helper()
	if len(points) == 0 || points[0].In != 0 || points[0].Out != 0 || points[0].Kind != gzran.KindMember {
		t.Fatalf("the first checkpoint is not the start: %v", points)
	}
	for i, cp := range points[1:] {
		if cp.Out < points[i].Out+gzran.MinSpacing {
			t.Errorf("checkpoint %d is only %d bytes after the one before", i+1, cp.Out-points[i].Out)
		}
	}
}

// checkSpan reads what lies between two checkpoints from just the bytes it needs.
func checkSpan(t *testing.T, d *gzran.Decoder, s sample, points []gzran.Checkpoint, i int) {
	t.Helper()
	in, out := int64(len(s.gz)), int64(len(s.want))
	if i+1 < len(points) {
		in, out = points[i+1].InEnd(), points[i+1].Out
	}
	cp := points[i]
	r, err := d.Resume(bytes.NewReader(s.gz[cp.In:in]), cp)
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, r)
	got := make([]byte, out-cp.Out)
	if _, err := io.ReadFull(r, got); err != nil {
		t.Fatalf("span %d: %v", i, err)
	}
	if !bytes.Equal(got, s.want[cp.Out:out]) {
		t.Fatalf("span %d differs", i)
	}
}

// checkRest reads everything from a checkpoint on.
func checkRest(t *testing.T, d *gzran.Decoder, s sample, cp gzran.Checkpoint) {
	t.Helper()
	r, err := d.Resume(bytes.NewReader(s.gz[cp.In:]), cp)
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, r)
	var got bytes.Buffer
	if _, err := io.Copy(&got, r); err != nil {
		t.Fatalf("from %d: %v", cp.Out, err)
	}
	if !bytes.Equal(got.Bytes(), s.want[cp.Out:]) {
		t.Fatalf("output from %d differs", cp.Out)
	}
}

func TestReaderOneByteAtATime(t *testing.T) {
	t.Parallel()
	text := words(50_000)
	for _, gz := range [][]byte{
		compressed(t, 6, text),
		compressed(t, 0, text),
		members(t, text, 5000, []byte("extra")),
		slices.Concat(fullHeader(100), body(t, text)),
	} {
		read(t, iotest.OneByteReader(bytes.NewReader(gz)), gzran.MinSpacing, text)
	}
}

func TestReadAndWriteTo(t *testing.T) {
	t.Parallel()
	want := words(500_000)
	z, err := gzran.NewReader(bytes.NewReader(compressed(t, 6, want)), gzran.Config{})
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 12345)
	if _, err := io.ReadFull(z, got); err != nil {
		t.Fatal(err)
	}
	var rest bytes.Buffer
	n, err := z.WriteTo(&rest)
	if err != nil || n != int64(len(want)-len(got)) {
		t.Fatalf("WriteTo = %d, %v", n, err)
	}
	if !bytes.Equal(slices.Concat(got, rest.Bytes()), want) {
		t.Error("output differs")
	}
	if n, err := z.Read(got); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("Read after the end = %d, %v", n, err)
	}
	if _, err := gzran.NewReader(nil, gzran.Config{Spacing: -1}); err == nil {
		t.Error("negative spacing accepted")
	}
}

func TestTrailing(t *testing.T) {
	t.Parallel()
	text := words(100_000)
	gz := compressed(t, 6, text)
	for name, tail := range map[string][]byte{
		"zero":    {0},
		"zeros":   make([]byte, 300_000),
		"garbage": random(1000),
		"almost":  {0x1f, 0x8c, 8},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			z := read(t, bytes.NewReader(slices.Concat(gz, tail)), 0, text)
			if z.InputSize() != int64(len(gz)) || z.TrailingBytes() != int64(len(tail)) {
				t.Errorf("InputSize %d, TrailingBytes %d; want %d, %d", z.InputSize(), z.TrailingBytes(), len(gz), len(tail))
			}
		})
	}
}

// inflate reads all of a stream and keeps what comes before an error.
func inflate(gz io.Reader) ([]byte, error) {
	z, err := gzran.NewReader(gz, gzran.Config{Spacing: gzran.MinSpacing})
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}

func TestTruncated(t *testing.T) {
	t.Parallel()
	text := slices.Concat(words(1000), random(100), words(2000)[1000:])
	for name, gz := range map[string][]byte{
		"dynamic": slices.Concat(fullHeader(5), body(t, text)),
		"fixed":   hugeBlock(text),
		"stored":  compressed(t, 0, text),
		"flushed": flushed(t, text),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for n := range gz {
				got, err := inflate(bytes.NewReader(gz[:n]))
				var se *gzran.StreamError
				if !errors.As(err, &se) || !errors.Is(err, io.ErrUnexpectedEOF) || se.Offset != int64(n) {
					t.Fatalf("%d of %d bytes: %v", n, len(gz), err)
				}
				if !bytes.HasPrefix(text, got) {
					t.Fatalf("%d of %d bytes: output differs", n, len(gz))
				}
				if n == len(gz)-1 && len(got) != len(text) {
					t.Fatalf("only %d bytes of %d before the trailer", len(got), len(text))
				}
			}
		})
	}
}

func TestFlippedBits(t *testing.T) {
	t.Parallel()
	text := slices.Concat(words(1000), random(50))
	for name, gz := range map[string][]byte{
		"dynamic": compressed(t, 6, text),
		"fixed":   hugeBlock(text[:300]),
		"stored":  compressed(t, 0, text[:300]),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want, err := inflate(bytes.NewReader(gz))
			if err != nil {
				t.Fatal(err)
			}
			for bit := 0; bit < 8*len(gz); bit += 3 {
				bad := bytes.Clone(gz)
				bad[bit/8] ^= 1 << (bit % 8)
				got, err := inflate(bytes.NewReader(bad))
				if err == nil && !bytes.Equal(got, want) {
					t.Fatalf("bit %d flipped: wrong output without an error", bit)
				}
				var se *gzran.StreamError
				if err != nil && (!errors.As(err, &se) || se.Offset > int64(len(gz))) {
					t.Fatalf("bit %d flipped: %v", bit, err)
				}
			}
		})
	}
}

func TestCorrupt(t *testing.T) {
	t.Parallel()
	hand := func(write func(w *bitWriter)) []byte {
		var w bitWriter
		write(&w)
		return member(w.b, make([]byte, 64))
	}
	good := compressed(t, 6, words(1000))
	wrong := func(back int) []byte {
		b := bytes.Clone(good)
		b[len(b)-back]++
		return b
	}
	for _, c := range []struct {
		name   string
		gz     []byte
		offset int64
		reason string
	}{
		{"no gzip", []byte("PK\x03\x04 is another format"), 0, "no gzip header"},
		{"unknown method", []byte("\x1f\x8b\x07 123456789"), 0, "no gzip header"},
		{"bad second member", slices.Concat(good, []byte("\x1f\x8b\x07")), int64(len(good)), "no gzip header"},
		{"checksum", wrong(8), int64(len(good)) - 8, "checksum of the member"},
		{"length", wrong(1), int64(len(good)) - 8, "length of the member"},
		{"reserved type", hand(func(w *bitWriter) { w.bits(7, 3) }), 10, "reserved deflate block type"},
		{"stored length", hand(func(w *bitWriter) { w.bits(1, 8); w.bits(5, 32) }), 11, "complement"},
		{"too many symbols", hand(func(w *bitWriter) { w.bits(5, 3); w.bits(31, 14) }), 12, "too many symbols"},
		{"no code for lengths", hand(func(w *bitWriter) { w.bits(5, 3); w.bits(0, 14); w.bits(0, 64) }), 13, "no such code length"},
		{"overfull code", hand(func(w *bitWriter) { w.bits(5, 3); w.bits(0, 14); w.bits(0o1111, 12) }), 13, "code length code"},
		{"invalid length", hand(func(w *bitWriter) { w.bits(3, 3); w.huff(0xc7, 8) }), 10, "no such literal"},
		{"invalid distance", hand(func(w *bitWriter) {
			w.bits(3, 3)
			w.literal('a')
			w.huff(1, 7)
			w.huff(30, 5)
		}), 12, "distance out of range"},
		{"distance before the start", hand(func(w *bitWriter) {
			w.bits(3, 3)
			w.literal('a')
			w.huff(1, 7)
			w.huff(1, 5)
		}), 12, "distance out of range"},
		{"distance into the member before", slices.Concat(good, hand(func(w *bitWriter) {
			w.bits(3, 3)
			w.huff(1, 7)
			w.huff(0, 5)
		})), int64(len(good)) + 11, "distance out of range"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			// The same twice: with room for the fast loop behind the error, and without.
			for _, pad := range []int{0, 100} {
				_, err := inflate(bytes.NewReader(append(bytes.Clone(c.gz), make([]byte, pad)...)))
				var se *gzran.StreamError
				if !errors.As(err, &se) || !errors.Is(err, gzran.ErrCorrupt) {
					t.Fatalf("with %d bytes behind: %v", pad, err)
				}
				if se.Offset < c.offset || se.Offset > c.offset+1 || !strings.Contains(err.Error(), c.reason) {
					t.Errorf("with %d bytes behind: %v; want %q at byte %d", pad, err, c.reason, c.offset)
				}
			}
		})
	}
}

func TestReadError(t *testing.T) {
	t.Parallel()
	text := words(400_000)
	gz := compressed(t, 6, text)
	broken := errors.New("cable pulled")
	for _, n := range []int{0, 5, 1000, len(gz) - 3, len(gz)} {
		got, err := inflate(io.MultiReader(bytes.NewReader(gz[:n]), iotest.ErrReader(broken)))
		var se *gzran.StreamError
		if !errors.As(err, &se) || !errors.Is(err, broken) || se.Offset != int64(n) {
			t.Errorf("reader broken after %d bytes: %v", n, err)
		}
		if !bytes.HasPrefix(text, got) || n > len(gz)/2 && len(got) < len(text)/3 {
			t.Errorf("reader broken after %d bytes: wrong output of %d bytes", n, len(got))
		}
	}
	if _, err := inflate(iotest.ErrReader(nil)); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("reader that never returns anything: %v", err)
	}
}

// TestMemory reads a stream that grows a thousandfold.
func TestMemory(t *testing.T) {
	const size = 64 << 20
	gz := compressed(t, 6, make([]byte, size/16))
	var many []io.Reader
	for range 16 {
		many = append(many, bytes.NewReader(gz))
	}
	z, err := gzran.NewReader(io.MultiReader(many...), gzran.Config{})
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	n, err := io.Copy(io.Discard, z)
	runtime.ReadMemStats(&after)
	if err != nil || n != size {
		t.Fatal(n, err)
	}
	if got := after.TotalAlloc - before.TotalAlloc; got > 4<<20 {
		t.Errorf("inflating %d bytes allocated %d", n, got)
	}
}

// TestIndexSize holds the checkpoints to their share of a layer index.
func TestIndexSize(t *testing.T) {
	for _, dir := range []string{"src", "pkg/tool"} {
		text := tarOf(t, dir, 6<<20)
		gz := compressed(t, 6, text)
		for _, spacing := range []int64{1 << 20, 2 << 20, 4 << 20} {
			points := read(t, bytes.NewReader(gz), spacing, text).Checkpoints()
			var sum int
			for _, cp := range points {
				sum += len(cp.Window) + 16
			}
			t.Logf("%s, spacing %d: %d checkpoints, %d bytes each, %.2f %% of the gzip stream",
				dir, spacing, len(points), sum/len(points), 100*float64(sum)/float64(len(gz)))
			if 100*sum > 15*len(gz)/10 {
				t.Errorf("checkpoints take %d bytes for a gzip stream of %d", sum, len(gz))
			}
		}
	}
}

func TestResumeRejects(t *testing.T) {
	t.Parallel()
	for _, cp := range []gzran.Checkpoint{
		{In: -1},
		{In: 1 << 62},
		{Out: -1},
		{Out: 1 << 62},
		{Kind: 2},
		{Kind: gzran.KindBlock, Bit: 8},
		{Kind: gzran.KindMember, Bit: 1},
		{Kind: gzran.KindMember, Window: []byte{1}},
		{Kind: gzran.KindBlock, Window: []byte("nothing that was packed")},
	} {
		if _, err := gzran.Resume(bytes.NewReader(nil), cp); err == nil {
			t.Errorf("%v accepted", cp)
		}
	}
}

// TestResumeShort checks that a span cut short is an error and never an end.
func TestResumeShort(t *testing.T) {
	t.Parallel()
	text := words(200_000)
	gz := compressed(t, 6, text)
	for _, cp := range read(t, bytes.NewReader(gz), gzran.MinSpacing, text).Checkpoints() {
		for _, n := range []int64{0, 1, 2, 100, int64(len(gz)) - cp.In - 1} {
			n = min(n, int64(len(gz))-cp.In-1)
			r, err := gzran.Resume(bytes.NewReader(gz[cp.In:][:n]), cp)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			var se *gzran.StreamError
			if !errors.As(err, &se) || !errors.Is(err, io.ErrUnexpectedEOF) || se.Offset != cp.In+n {
				t.Errorf("%d bytes from %d: %v", n, cp.In, err)
			}
			if !bytes.HasPrefix(text[cp.Out:], got) {
				t.Errorf("%d bytes from %d: output differs", n, cp.In)
			}
			if err := errors.Join(r.Close(), r.Close()); err != nil {
				t.Error(err)
			}
			if n, err := r.Read(make([]byte, 1)); n != 0 || err == nil {
				t.Errorf("Read after Close = %d, %v", n, err)
			}
		}
	}
}

func TestDecoderConcurrent(t *testing.T) {
	t.Parallel()
	text := words(1 << 20)
	gz := compressed(t, 6, text)
	s := sample{gz: gz, want: text}
	points := read(t, bytes.NewReader(gz), gzran.MinSpacing, text).Checkpoints()
	var d gzran.Decoder
	var wg sync.WaitGroup
	for i := range points {
		wg.Go(func() { checkSpan(t, &d, s, points, i) })
	}
	wg.Wait()
}

func TestCheckpointEnd(t *testing.T) {
	t.Parallel()
	for bit, want := range map[uint8]int64{0: 7, 1: 8, 7: 8} {
		if got := (gzran.Checkpoint{In: 7, Kind: gzran.KindBlock, Bit: bit}).InEnd(); got != want {
			t.Error(fmt.Sprint("bit ", bit), got, want)
		}
	}
}
