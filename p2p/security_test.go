package p2p

import (
	"crypto/ed25519"
	"io"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/internal/block"
)

// BenchmarkSecurity moves blocks over one stream of loopback, with nothing of this
// package but the muxer, under both security protocols that libp2p has for TCP.
func BenchmarkSecurity(b *testing.B) {
	const protocol = "/bench"
	for name, security := range map[string]libp2p.Option{
		"tls": libp2p.Security(libp2ptls.ID, libp2ptls.New), "noise": libp2p.Security(noise.ID, noise.New),
	} {
		b.Run(name, func(b *testing.B) {
			server, reader := benchHost(b, 1, security), benchHost(b, 2, security)
			server.SetStreamHandler(protocol, func(s network.Stream) {
				data := make([]byte, block.Size)
				for err := error(nil); err == nil; {
					_, err = s.Write(data)
				}
			})
			if err := reader.Connect(b.Context(), peer.AddrInfo{ID: server.ID(), Addrs: server.Addrs()}); err != nil {
				b.Fatal(err)
			}
			s, err := reader.NewStream(b.Context(), server.ID(), protocol)
			if err != nil {
				b.Fatal(err)
			}
			buf := make([]byte, block.Size)
			b.SetBytes(block.Size)
			before := cpuTime(b)
			for b.Loop() {
				if _, err := io.ReadFull(s, buf); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric((cpuTime(b)-before).Seconds()/(float64(b.N)*block.Size/1e9), "cpu-s/GB")
			if err := s.Reset(); err != nil {
				b.Error(err)
			}
		})
	}
}

func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func benchHost(b *testing.B, seed byte, security libp2p.Option) host.Host {
	b.Helper()
	key, err := crypto.UnmarshalEd25519PrivateKey(ed25519.NewKeyFromSeed([]byte{ed25519.SeedSize - 1: seed}))
	if err != nil {
		b.Fatal(err)
	}
	h, err := libp2p.New(libp2p.Identity(key), libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.NoTransports,
		libp2p.Transport(tcp.NewTCPTransport), libp2p.Muxer(yamux.ID, newMuxer()), security, libp2p.DisableRelay(),
		libp2p.DisableMetrics(), libp2p.ResourceManager(&network.NullResourceManager{}))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := h.Close(); err != nil {
			b.Error(err)
		}
	})
	return h
}
