package p2p_test

import (
	"context"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/p2p"
	"github.com/brisk-project/brisk/p2p/p2ptest"
	"github.com/brisk-project/brisk/test/link"
)

// benchLayer is large enough that no two fetches under way ask for the same block.
var benchLayer = sync.OnceValue(func() *blocktest.Fixture {
	return blocktest.New(blocktest.Layer{Name: "layer", Data: blocktest.Random(1, 8*block.ExtentSize)})
})

func ignore(block.Key, []byte) error { return nil }

// benchLink is the way to the server: loopback itself, or a link of a bandwidth in
// bytes a second and a round-trip time.
type benchLink struct {
	name      string
	bandwidth float64
	rtt       time.Duration
}

// port returns where a server on loopback is reached over the link.
func (l benchLink) port(b *testing.B, server string) string {
	b.Helper()
	if l.bandwidth == 0 {
		return server
	}
	_, own := linkTo(b, server, link.Config{BytesPerSecond: l.bandwidth, RoundTrip: l.rtt})
	return own
}

// readers starts a node that holds the layer, and n that reach it over one link.
func (l benchLink) readers(b *testing.B, n int) []*p2p.Node {
	b.Helper()
	local := &memory{blocks: make(map[block.Key][]byte)}
	for k := range benchLayer().Keys() {
		local.blocks[k] = benchLayer().Content(k)
	}
	known, behind := p2p.NewList(), p2p.NewList()
	nodes := make([]*p2p.Node, n+1)
	for i := range nodes {
		cfg := p2ptest.Config(i, behind)
		cfg.Layout = benchLayer()
		if i == 0 {
			cfg.Members, cfg.Local = known, local
		}
		nodes[i] = p2ptest.Start(b, cfg)
	}
	reach(b, known, behind, func(port string) string { return l.port(b, port) }, nodes...)
	return nodes[1:]
}

// BenchmarkFill reads whole extents, as background fill does, and reports what
// part that is of what one plain TCP connection over the same link carries when
// what comes is hashed.
func BenchmarkFill(b *testing.B) {
	for _, l := range []benchLink{
		{name: "loopback"},
		{"1Gbit+2ms", link.Gigabit, 2 * time.Millisecond},
		{"1Gbit+10ms", link.Gigabit, 10 * time.Millisecond},
		{"10Gbit+2ms", 10 * link.Gigabit, 2 * time.Millisecond},
	} {
		b.Run(l.name, func(b *testing.B) {
			plain, rtt := plainTCP(b, l)
			src := l.readers(b, 1)[0].Source()
			layer := benchLayer().Largest()
			b.SetBytes(int64(len(layer.Data)))
			for b.Loop() {
				if err := src.Fetch(b.Context(), block.Request{Range: layer.Range(), Class: block.ClassFill}, ignore); err != nil {
					b.Fatal(err)
				}
			}
			perSecond := float64(b.N) * float64(len(layer.Data)) / b.Elapsed().Seconds()
			b.ReportMetric(perSecond/plain, "of-plain-TCP")
			b.ReportMetric(float64(rtt.Microseconds())/1e3, "rtt-ms")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkRead reads one block at a time, as a program that waits does: from a
// peer with nothing else to do, and from one that is being filled from all the time
// over the same connection or over another one.
func BenchmarkRead(b *testing.B) {
	slow := benchLink{name: "1Gbit", bandwidth: link.Gigabit}
	for _, tc := range []struct {
		link benchLink
		fill string
	}{
		{benchLink{name: "loopback"}, "no fill"}, {slow, "no fill"}, {slow, "fill on its connection"}, {slow, "fill on another"},
	} {
		b.Run(tc.link.name+"/"+tc.fill, func(b *testing.B) {
			nodes := tc.link.readers(b, 2)
			var filled atomic.Int64
			switch tc.fill {
			case "fill on its connection":
				defer keepFilling(b, nodes[0], &filled)()
			case "fill on another":
				defer keepFilling(b, nodes[1], &filled)()
			}
			src, layer := nodes[0].Source(), benchLayer().Largest()
			var took []time.Duration
			b.SetBytes(block.Size)
			for b.Loop() {
				r := layer.Range()
				r.First, r.Count = uint32(len(took))%r.Count, 1
				start := time.Now()
				if err := src.Fetch(b.Context(), block.Request{Range: r}, ignore); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(start))
			}
			b.ReportMetric(float64(filled.Load())/1e6/b.Elapsed().Seconds(), "fill-MB/s")
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1e3, "p50-ms")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1e3, "p99-ms")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// keepFilling reads the layer in the background until the returned function is
// called, and counts the bytes.
func keepFilling(b *testing.B, n *p2p.Node, filled *atomic.Int64) (stop func()) {
	b.Helper()
	ctx, cancel := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		req := block.Request{Range: benchLayer().Largest().Range(), Class: block.ClassFill}
		for ctx.Err() == nil {
			_ = n.Source().Fetch(ctx, req, func(_ block.Key, data []byte) error { //nolint:errcheck // ends with ctx
				filled.Add(int64(len(data)))
				return nil
			})
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}

// plainTCP returns how many bytes a second a TCP connection over the link carries
// to somebody who hashes blocks, and the time there and back of a single byte.
func plainTCP(b *testing.B, l benchLink) (perSecond float64, rtt time.Duration) {
	b.Helper()
	const rounds = 50
	listener, err := (&net.ListenConfig{}).Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer shut(listener)
	_, port, _ := strings.Cut(listener.Addr().String(), ":")
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer shut(conn)
		data := blocktest.Random(1, block.Size)
		for range rounds {
			if _, err = io.ReadFull(conn, data[:1]); err == nil {
				_, err = conn.Write(data[:1])
			}
		}
		for err == nil {
			_, err = conn.Write(data)
		}
	})
	conn, err := (&net.Dialer{}).DialContext(b.Context(), "tcp", "127.0.0.1:"+l.port(b, port))
	if err != nil {
		b.Fatal(err)
	}
	defer shut(conn)
	buf := make([]byte, block.Size)
	start := time.Now()
	for range rounds {
		if _, err := conn.Write(buf[:1]); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(conn, buf[:1]); err != nil {
			b.Fatal(err)
		}
	}
	rtt = time.Since(start) / rounds
	blocks := 0
	start = time.Now()
	for ; time.Since(start) < time.Second; blocks++ {
		if _, err := io.ReadFull(conn, buf); err != nil {
			b.Fatal(err)
		}
		if block.Sum(buf).IsZero() {
			b.Fatal("no digest")
		}
	}
	return float64(blocks) * block.Size / time.Since(start).Seconds(), rtt
}
