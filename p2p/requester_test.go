package p2p

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/p2p/policy"
	"github.com/brisk-project/brisk/p2p/wire"
)

// pipeStream makes a network stream of one end of a net.Pipe.
type pipeStream struct{ net.Conn }

func (p pipeStream) Reset() error { return p.Close() }

// script is what the other end of a requester does with the requests it gets.
type script func(t *testing.T, conn net.Conn)

// runRequester runs a requester against a script and returns it.
func runRequester(t *testing.T, s script) *requester {
	t.Helper()
	here, there := net.Pipe()
	l := newRequester(pipeStream{here}, &bufferPool{})
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var wg sync.WaitGroup
	wg.Go(func() { l.run(ctx) })
	wg.Go(func() {
		defer closePipe(there)
		s(t, there)
		drain(there)
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return l
}

// drain reads whatever still comes, so that nobody is kept from writing.
func drain(conn net.Conn) {
	_, _ = io.Copy(io.Discard, conn) //nolint:errcheck // until the other end closes
}

func closePipe(conn net.Conn) {
	_ = conn.Close() //nolint:errcheck // documented never to fail
}

// readRequest reads one request as a peer would.
func readRequest(t *testing.T, conn net.Conn) wire.Header {
	t.Helper()
	var buf [wire.HeaderSize]byte
	h, err := wire.Read(conn, &buf)
	if err != nil {
		t.Errorf("reading a request: %v", err)
	}
	if _, err := io.CopyN(io.Discard, conn, int64(h.Length)); err != nil {
		t.Errorf("reading a request: %v", err)
	}
	return h
}

func reply(t *testing.T, conn net.Conn, h wire.Header, payload []byte) {
	t.Helper()
	if _, err := conn.Write(append(h.Append(nil), payload...)); err != nil && !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("sending a frame: %v", err)
	}
}

func blockFrame(id uint64, index uint32, length int) wire.Header {
	return wire.Header{Type: wire.TypeBlock, ID: id, First: index, Count: 1, Length: uint32(length)}
}

var testAsk = policy.BlockRequest{Layer: block.Sum([]byte("layer")), First: 16, Mask: 0b1011, MaxWait: time.Minute}

func noBlocks(t *testing.T) func(uint32, []byte) error {
	t.Helper()
	return func(index uint32, data []byte) error {
		t.Errorf("block %d of %d bytes was delivered", index, len(data))
		return nil
	}
}

func TestRequesterOutOfOrder(t *testing.T) {
	l := runRequester(t, func(t *testing.T, conn net.Conn) {
		t.Helper()
		a, b := readRequest(t, conn), readRequest(t, conn)
		if a.First != 16 || a.Mask != 0b1011 || a.Millis != 60_000 || a.Count != 4 {
			t.Errorf("request %+v", a)
		}
		reply(t, conn, blockFrame(b.ID, 19, 3), []byte("b19"))
		reply(t, conn, blockFrame(a.ID, 17, 3), []byte("a17"))
		reply(t, conn, wire.Header{Type: wire.TypeEnd, ID: a.ID, Status: wire.StatusMissing, Mask: 0b1001}, nil)
		reply(t, conn, blockFrame(b.ID, 16, 3), []byte("b16"))
		reply(t, conn, blockFrame(b.ID, 17, 3), []byte("b17"))
		reply(t, conn, wire.Header{Type: wire.TypeEnd, ID: b.ID}, nil)
	})
	type result struct {
		got   string
		reply policy.Reply
		err   error
	}
	results := make(chan result, 2)
	for range 2 {
		go func() {
			var r result
			r.reply, r.err = l.blocks(t.Context(), testAsk, func(_ uint32, data []byte) error {
				r.got += string(data) + " "
				return nil
			})
			results <- r
		}()
	}
	for range 2 {
		r := <-results
		switch {
		case r.err != nil:
			t.Error(r.err)
		case r.got == "a17 " && r.reply.Missing == 0b1001:
		case r.got == "b19 b16 b17 " && r.reply.Missing == 0:
		default:
			t.Errorf("got %q, missing %#b", r.got, r.reply.Missing)
		}
	}
}

// TestRequesterLies: whatever breaks the protocol costs the peer the stream, and never
// makes room for more than a block.
func TestRequesterLies(t *testing.T) {
	for name, lie := range map[string]script{
		"block longer than a block": func(t *testing.T, conn net.Conn) {
			t.Helper()
			reply(t, conn, blockFrame(readRequest(t, conn).ID, 16, 1<<31), nil)
		},
		"block not asked for": func(t *testing.T, conn net.Conn) {
			t.Helper()
			reply(t, conn, blockFrame(readRequest(t, conn).ID, 18, 1), []byte("x"))
		},
		"block before the first": func(t *testing.T, conn net.Conn) {
			t.Helper()
			reply(t, conn, blockFrame(readRequest(t, conn).ID, 3, 1), []byte("x"))
		},
		"block far behind": func(t *testing.T, conn net.Conn) {
			t.Helper()
			reply(t, conn, blockFrame(readRequest(t, conn).ID, 16+64, 1), []byte("x"))
		},
		"answer to nothing": func(t *testing.T, conn net.Conn) {
			t.Helper()
			reply(t, conn, blockFrame(readRequest(t, conn).ID+1, 16, 1), []byte("x"))
		},
		"chunk for a want": func(t *testing.T, conn net.Conn) {
			t.Helper()
			reply(t, conn, wire.Header{Type: wire.TypeChunk, ID: readRequest(t, conn).ID, Length: 1, Size: 1}, []byte("x"))
		},
		"request for an answer": func(t *testing.T, conn net.Conn) {
			t.Helper()
			reply(t, conn, wire.Header{Type: wire.TypeCancel, ID: readRequest(t, conn).ID}, nil)
		},
		"not the protocol": func(t *testing.T, conn net.Conn) {
			t.Helper()
			readRequest(t, conn)
			if _, err := io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\n\r\n"); err != nil && !errors.Is(err, io.ErrClosedPipe) {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := runRequester(t, lie)
			_, err := l.blocks(t.Context(), testAsk, noBlocks(t))
			if !errors.Is(err, wire.ErrMalformed) || !errors.Is(err, errStreamClosed) {
				t.Errorf("error %v, want ErrMalformed", err)
			}
			if _, err := l.blocks(t.Context(), testAsk, noBlocks(t)); !errors.Is(err, errStreamClosed) {
				t.Errorf("the next request: %v, want the requester closed", err)
			}
		})
	}
}

func TestRequesterSameBlockTwice(t *testing.T) {
	l := runRequester(t, func(t *testing.T, conn net.Conn) {
		t.Helper()
		id := readRequest(t, conn).ID
		reply(t, conn, blockFrame(id, 16, 1), []byte("x"))
		reply(t, conn, blockFrame(id, 16, 1), []byte("x"))
	})
	n := 0
	_, err := l.blocks(t.Context(), testAsk, func(uint32, []byte) error { n++; return nil })
	if !errors.Is(err, wire.ErrMalformed) || n > 1 {
		t.Errorf("%d deliveries, %v", n, err)
	}
}

// TestRequesterCancel: a reader that leaves does not wait, the peer hears of it, and
// what still comes disturbs nobody.
func TestRequesterCancel(t *testing.T) {
	cancelled := make(chan struct{})
	cause := errors.New("reader left")
	ctx, cancel := context.WithCancelCause(t.Context())
	l := runRequester(t, func(t *testing.T, conn net.Conn) {
		t.Helper()
		first := readRequest(t, conn)
		reply(t, conn, blockFrame(first.ID, 16, 1), []byte("x"))
		cancel(cause)
		if h := readRequest(t, conn); h.Type != wire.TypeCancel || h.ID != first.ID {
			t.Errorf("got %+v, want the CANCEL", h)
		}
		close(cancelled)
		reply(t, conn, blockFrame(first.ID, 17, 1), []byte("x"))
		reply(t, conn, wire.Header{Type: wire.TypeEnd, ID: first.ID, Status: wire.StatusCancelled, Mask: 0b1000}, nil)
		second := readRequest(t, conn)
		reply(t, conn, wire.Header{Type: wire.TypeEnd, ID: second.ID, Status: wire.StatusBusy, Millis: 70}, nil)
	})
	if _, err := l.blocks(ctx, testAsk, func(uint32, []byte) error { return nil }); !errors.Is(err, cause) {
		t.Errorf("error %v, want the cause", err)
	}
	<-cancelled
	_, err := l.blocks(t.Context(), testAsk, noBlocks(t))
	var busy *policy.BusyError
	if !errors.As(err, &busy) || busy.After != 70*time.Millisecond {
		t.Errorf("second request: %v, want busy for 70ms", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.pending) != 0 {
		t.Errorf("%d requests pending at the end", len(l.pending))
	}
}

func TestRequesterObject(t *testing.T) {
	content := bytes.Repeat([]byte("object "), 2*block.Size/7)
	digest := block.Sum(content)
	for _, tc := range []struct {
		name string
		max  int64
		send script
		want error
	}{
		{"whole", int64(len(content)), sendChunks(content, uint64(len(content))), nil},
		{"larger than accepted", int64(len(content)) - 1, sendChunks(content, uint64(len(content))), wire.ErrMalformed},
		{"longer than it says", 1 << 30, sendChunks(content, 100), wire.ErrMalformed},
		{"claims to be huge", 1 << 30, sendChunks(content, 1<<63), wire.ErrMalformed},
		{"wrong bytes", int64(len(content)), sendChunks(bytes.ToUpper(content), uint64(len(content))), block.ErrCorrupt},
		{"cut short", int64(len(content)), sendChunks(content[:block.Size], block.Size), block.ErrCorrupt},
		{"absent", 100, func(t *testing.T, conn net.Conn) {
			t.Helper()
			reply(t, conn, wire.Header{Type: wire.TypeEnd, ID: readRequest(t, conn).ID, Status: wire.StatusMissing}, nil)
		}, block.ErrNotFound},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := runRequester(t, tc.send)
			got, err := l.object(t.Context(), digest, tc.max)
			if !errors.Is(err, tc.want) {
				t.Fatalf("error %v, want %v", err, tc.want)
			}
			if tc.want == nil && !bytes.Equal(got, content) {
				t.Error("wrong content")
			}
		})
	}
}

func sendChunks(content []byte, size uint64) script {
	return func(t *testing.T, conn net.Conn) {
		t.Helper()
		id := readRequest(t, conn).ID
		for i := uint32(0); len(content) > 0; i++ {
			n := min(len(content), block.Size)
			reply(t, conn, wire.Header{Type: wire.TypeChunk, ID: id, First: i, Length: uint32(n), Size: size}, content[:n])
			content = content[n:]
		}
		reply(t, conn, wire.Header{Type: wire.TypeEnd, ID: id}, nil)
	}
}

func TestRequesterIsBounded(t *testing.T) {
	l := newRequester(pipeStream{}, &bufferPool{})
	for range requestQueue {
		if _, err := l.begin(wire.Header{Type: wire.TypeWant}, block.Digest{}, &call{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.begin(wire.Header{Type: wire.TypeWant}, block.Digest{}, &call{}); !errors.Is(err, errQueueFull) {
		t.Errorf("error %v, want errQueueFull", err)
	}
}

// fuzzStream gives arbitrary bytes to whoever reads and drops what is written.
type fuzzStream struct{ io.Reader }

func (fuzzStream) Write(b []byte) (int, error)      { return len(b), nil }
func (fuzzStream) SetWriteDeadline(time.Time) error { return nil }
func (fuzzStream) Reset() error                     { return nil }

// FuzzLane lets a peer send arbitrary bytes in answer to a WANT and an OBJECT. It
// can at most deliver blocks that were asked for, each once.
func FuzzLane(f *testing.F) {
	end := func(id uint64) []byte { return wire.Header{Type: wire.TypeEnd, ID: id}.Append(nil) }
	f.Add(append(append(blockFrame(1, 16, 3).Append(nil), "abc"...), end(1)...))
	f.Add(append(append(wire.Header{Type: wire.TypeChunk, ID: 2, Length: 3, Size: 3}.Append(nil), "abc"...), end(2)...))
	f.Add(append(blockFrame(1, 19, block.Size).Append(nil), strings.Repeat("x", block.Size)...))
	f.Fuzz(func(t *testing.T, data []byte) {
		l := newRequester(fuzzStream{bytes.NewReader(data)}, &bufferPool{})
		want := &call{first: 16, left: 0b1011, frames: make(chan frame, 4)}
		object := &call{object: true, limit: 1 << 20, frames: make(chan frame, block.Count(1<<20)+1)}
		for _, c := range []*call{want, object} {
			if _, err := l.begin(wire.Header{Type: wire.TypeWant}, block.Digest{}, c); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.read(); err == nil {
			t.Fatal("reading with a requester ended without an error")
		}
		seen := map[uint32]bool{}
		for len(want.frames) > 0 {
			f := <-want.frames
			if f.header.Type == wire.TypeBlock && (seen[f.header.First] || len(f.payload()) > block.Size) {
				t.Fatalf("frame %+v", f.header)
			}
			seen[f.header.First] = true
		}
		runtime.KeepAlive(object)
	})
}

// FuzzServe lets a peer send arbitrary bytes as requests.
func FuzzServe(f *testing.F) {
	f.Add(wire.Request(wire.Header{Type: wire.TypeWant, ID: 1, Count: 2, Mask: 3}, block.Digest{}))
	f.Add(append(wire.Request(wire.Header{Type: wire.TypeObject, ID: 1, Size: 9}, block.Digest{}), wire.Header{Type: wire.TypeCancel, ID: 1}.Append(nil)...))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &server{sending: newSemaphore(4, time.Now), counts: &counters{}}
		if err := s.serve(t.Context(), fuzzStream{bytes.NewReader(data)}); err == nil {
			t.Fatal("serving ended without an error")
		}
	})
}
