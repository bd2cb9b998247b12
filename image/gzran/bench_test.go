package gzran_test

import (
	"bytes"
	stdgzip "compress/gzip"
	"io"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/brisk-project/brisk/image/gzran"
)

// inflaters are the decoders that are compared. All of them check the checksum.
func inflaters() map[string]func(gz []byte) (int64, error) {
	return map[string]func(gz []byte) (int64, error){
		"gzran": func(gz []byte) (int64, error) {
			z, err := gzran.NewReader(bytes.NewReader(gz), gzran.Config{})
			if err != nil {
				return 0, err
			}
			return z.WriteTo(io.Discard)
		},
		"klauspost": func(gz []byte) (int64, error) {
			z, err := gzip.NewReader(bytes.NewReader(gz))
			if err != nil {
				return 0, err
			}
			return z.WriteTo(io.Discard)
		},
		"std": func(gz []byte) (int64, error) {
			z, err := stdgzip.NewReader(bytes.NewReader(gz))
			if err != nil {
				return 0, err
			}
			return io.Copy(io.Discard, z)
		},
	}
}

func layers(b *testing.B) map[string]sample {
	b.Helper()
	ss := map[string]sample{}
	for name, dir := range map[string]string{"sources": "src", "programs": "pkg/tool"} {
		text := tarOf(b, dir, 48<<20)
		ss[name] = sample{gz: compressed(b, 6, text), want: text}
	}
	return ss
}

// BenchmarkInflate compares decoders on what layers hold, gzran with checkpoints.
func BenchmarkInflate(b *testing.B) {
	for content, s := range layers(b) {
		for name, inflate := range inflaters() {
			b.Run(content+"/"+name, func(b *testing.B) {
				b.SetBytes(int64(len(s.want)))
				for b.Loop() {
					if n, err := inflate(s.gz); err != nil || n != int64(len(s.want)) {
						b.Fatal(n, err)
					}
				}
			})
		}
	}
}

// BenchmarkRatio runs the decoders in turns and reports how many times as fast as
// klauspost's gzran is, checkpoints included: at least 0.9 must hold.
func BenchmarkRatio(b *testing.B) {
	for content, s := range layers(b) {
		b.Run(content, func(b *testing.B) {
			spent := map[string]time.Duration{}
			for b.Loop() {
				for name, inflate := range inflaters() {
					start := time.Now()
					if _, err := inflate(s.gz); err != nil {
						b.Fatal(err)
					}
					spent[name] += time.Since(start)
				}
			}
			ratio := spent["klauspost"].Seconds() / spent["gzran"].Seconds()
			b.ReportMetric(ratio, "x-klauspost")
			b.ReportMetric(spent["std"].Seconds()/spent["gzran"].Seconds(), "x-std")
			b.ReportMetric(float64(len(s.want))*float64(b.N)/1e6/spent["gzran"].Seconds(), "MB/s")
			if ratio < 0.9 {
				b.Errorf("%.2f times as fast as klauspost's, want at least 0.9", ratio)
			}
		})
	}
}

// BenchmarkResume reports what the first byte at a checkpoint and a whole span cost.
func BenchmarkResume(b *testing.B) {
	for content, s := range layers(b) {
		z, err := gzran.NewReader(bytes.NewReader(s.gz), gzran.Config{})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := z.WriteTo(io.Discard); err != nil {
			b.Fatal(err)
		}
		points := z.Checkpoints()
		for name, n := range map[string]int64{"open": 0, "span": gzran.DefaultSpacing} {
			b.Run(content+"/"+name, func(b *testing.B) {
				var d gzran.Decoder
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					cp := points[i%(len(points)-1)]
					r, err := d.Resume(bytes.NewReader(s.gz[cp.In:]), cp)
					if err != nil {
						b.Fatal(err)
					}
					if _, err := io.CopyN(io.Discard, r, n); err != nil {
						b.Fatal(err)
					}
					if err := r.Close(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
