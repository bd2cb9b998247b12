package gzran_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
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
