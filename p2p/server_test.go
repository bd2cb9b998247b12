package p2p

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/p2p/wire"
)

// client talks to a server over a pipe, frame by frame.
type client struct {
	t    *testing.T
	conn net.Conn
}

// runServer serves one stream until the test ends and returns the other end.
func runServer(t *testing.T, s *server) *client {
	t.Helper()
	here, there := net.Pipe()
	if s.sending == nil {
		s.sending = newSemaphore(sendingTotal, time.Now)
	}
	s.counts = &counters{}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- s.serve(ctx, pipeStream{there}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err == nil {
			t.Error("serving ended without an error")
		}
	})
	return &client{t: t, conn: here}
}

func (c *client) send(b []byte) {
	c.t.Helper()
	if _, err := c.conn.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) recv() (wire.Header, []byte) {
	c.t.Helper()
	var buf [wire.HeaderSize]byte
	h, err := wire.Read(c.conn, &buf)
	if err != nil {
		c.t.Fatal(err)
	}
	payload := make([]byte, h.Length)
	if _, err := io.ReadFull(c.conn, payload); err != nil {
		c.t.Fatal(err)
	}
	return h, payload
}

func want(id uint64, r block.Range, mask uint64, class block.Class) []byte {
	return wire.Request(wire.Header{
		Type: wire.TypeWant, ID: id, First: r.First, Count: r.Count, Mask: mask, Class: class, Millis: 30_000,
	}, r.Layer)
}

func TestServeBlocks(t *testing.T) {
	fx := blocktest.Standard()
	layer := fx.Largest()
	local := blocktest.NewSource(fx)
	local.Drop(layer.Range().Key(3))
	c := runServer(t, &server{local: local})
	c.send(want(7, block.Range{Layer: layer.ID, First: 1, Count: 5}, 0b10111, block.ClassRead))
	var got []uint32
	for {
		h, data := c.recv()
		if h.ID != 7 {
			t.Errorf("frame for request %d", h.ID)
		}
		if h.Type == wire.TypeEnd {
			if h.Status != wire.StatusMissing || h.Mask != 0b00100 {
				t.Errorf("END %s with mask %#b, want block 3 missing", h.Status, h.Mask)
			}
			break
		}
		if block.Sum(data) != block.Sum(fx.Content(block.Key{Layer: layer.ID, Index: h.First})) {
			t.Errorf("block %d has wrong bytes", h.First)
		}
		got = append(got, h.First)
	}
	if !slices.Equal(got, []uint32{1, 2, 5}) {
		t.Errorf("blocks %v, want 1 2 5", got)
	}
}

func TestServeUnknown(t *testing.T) {
	fx := blocktest.Standard()
	for name, s := range map[string]*server{"layer": {local: blocktest.NewSource(fx)}, "everything": {}} {
		t.Run(name, func(t *testing.T) {
			c := runServer(t, s)
			c.send(want(1, block.Range{Layer: block.Sum([]byte("unknown")), Count: 64}, 1<<63|1, block.ClassFill))
			if h, _ := c.recv(); h.Type != wire.TypeEnd || h.Status != wire.StatusMissing || h.Mask != 1<<63|1 {
				t.Errorf("got %+v", h)
			}
			c.send(wire.Request(wire.Header{Type: wire.TypeObject, ID: 2, Size: 10}, block.Digest{}))
			if h, _ := c.recv(); h.Type != wire.TypeEnd || h.Status != wire.StatusMissing {
				t.Errorf("got %+v", h)
			}
		})
	}
}

func TestServeFailure(t *testing.T) {
	fx := blocktest.Standard()
	local := blocktest.NewSource(fx)
	local.Fail(errors.New("disk on fire"))
	c := runServer(t, &server{local: local})
	c.send(want(1, block.Range{Layer: fx.Largest().ID, Count: 2}, 3, block.ClassRead))
	if h, _ := c.recv(); h.Type != wire.TypeEnd || h.Status != wire.StatusFailed || h.Mask != 3 {
		t.Errorf("got %+v, want failed", h)
	}
}

func TestServeCancel(t *testing.T) {
	fx := blocktest.Standard()
	local := blocktest.NewSource(fx)
	release := local.Stall()
	defer release()
	c := runServer(t, &server{local: local})
	c.send(want(1, block.Range{Layer: fx.Largest().ID, Count: 2}, 3, block.ClassRead))
	c.send(wire.Header{Type: wire.TypeCancel, ID: 99}.Append(nil)) // not open: no answer
	c.send(wire.Header{Type: wire.TypeCancel, ID: 1}.Append(nil))
	if h, _ := c.recv(); h.Type != wire.TypeEnd || h.ID != 1 || h.Status != wire.StatusCancelled || h.Mask != 3 {
		t.Errorf("got %+v, want cancelled", h)
	}
}

func TestServeExpired(t *testing.T) {
	fx := blocktest.Standard()
	local := blocktest.NewSource(fx)
	release := local.Stall()
	defer release()
	c := runServer(t, &server{local: local})
	c.send(wire.Request(wire.Header{Type: wire.TypeWant, ID: 1, Count: 1, Mask: 1, Millis: 5}, fx.Largest().ID))
	if h, _ := c.recv(); h.Status != wire.StatusExpired || h.Mask != 1 {
		t.Errorf("got %+v, want expired", h)
	}
}

func TestServeBusy(t *testing.T) {
	fx := blocktest.Standard()
	g := newSemaphore(2, time.Now)
	g.perItem = time.Second // as measured on a very slow disk
	g.waiting[block.ClassRead] = []*waiter{{granted: make(chan struct{})}}
	c := runServer(t, &server{local: blocktest.NewSource(fx), sending: g})
	c.send(want(1, block.Range{Layer: fx.Largest().ID, Count: 1}, 1, block.ClassRead))
	if h, _ := c.recv(); h.Status != wire.StatusBusy || h.Wait() != 500*time.Millisecond {
		t.Errorf("got %+v, want busy for half a second", h)
	}
}

// TestServeRefusesNonsense: a peer that breaks the protocol loses the stream.
func TestServeRefusesNonsense(t *testing.T) {
	fx := blocktest.Standard()
	request := want(1, block.Range{Layer: fx.Largest().ID, Count: 1}, 1, block.ClassRead)
	local := blocktest.NewSource(fx)
	release := local.Stall()
	defer release()
	for name, nonsense := range map[string][]byte{
		"an answer":          blockFrame(1, 0, 5).Append(nil),
		"an ID twice":        slices.Concat(request, request),
		"not the protocol":   []byte(strings.Repeat("GET / HTTP/1.1\r\n", 4)),
		"a request too long": wire.Header{Type: wire.TypeWant, Length: 33, Count: 1, Mask: 1}.Append(nil),
	} {
		t.Run(name, func(t *testing.T) {
			here, there := net.Pipe()
			done := make(chan error, 1)
			s := &server{local: local, sending: newSemaphore(2, time.Now), counts: &counters{}}
			go func() { done <- s.serve(t.Context(), pipeStream{there}) }()
			go drain(here)
			if _, err := here.Write(nonsense); err != nil && !errors.Is(err, io.ErrClosedPipe) {
				t.Error(err)
			}
			if err := <-done; !errors.Is(err, wire.ErrMalformed) {
				t.Errorf("error %v, want ErrMalformed", err)
			}
		})
	}
}

// TestServeHungPeer: a peer that does not read loses its stream, and with it what
// it holds of the server.
func TestServeHungPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fx := blocktest.Standard()
		here, there := net.Pipe()
		defer closePipe(here)
		g := newSemaphore(2, time.Now)
		s := &server{local: blocktest.NewSource(fx), sending: g, counts: &counters{}}
		done := make(chan error, 1)
		go func() { done <- s.serve(t.Context(), pipeStream{there}) }()
		if _, err := here.Write(want(1, block.Range{Layer: fx.Largest().ID, Count: 16}, 0xffff, block.ClassFill)); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if err := <-done; err == nil {
			t.Error("serving ended without an error")
		}
		if elapsed := time.Since(start); elapsed > frameWrite {
			t.Errorf("the stream lived %s, want at most %s", elapsed, frameWrite)
		}
		if g.free != 2 || g.bulk != 1 {
			t.Errorf("%d places free, %d of them for bulk; want 2 and 1", g.free, g.bulk)
		}
	})
}

func TestGateUrgentFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newSemaphore(4, time.Now)
		var mu sync.Mutex
		var order []block.Class
		var leaves []func()
		for _, class := range []block.Class{block.ClassFill, block.ClassFill, block.ClassFill, block.ClassTail, block.ClassRead, block.ClassHead, block.ClassRead} {
			go func() {
				leave, err := g.enter(t.Context(), class)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				order = append(order, class)
				leaves = append(leaves, leave)
			}()
			synctest.Wait()
		}
		for i := 0; i < len(leaves); i++ {
			leaves[i]()
			synctest.Wait()
		}
		// Two fills have bulk's places; the reads and the head come next, the first
		// two at once, and what is bulk waits until bulk has left.
		wantOrder := []block.Class{0, 0, 0, 0, 0, 0, 0}
		copy(wantOrder, []block.Class{block.ClassFill, block.ClassFill, block.ClassRead, block.ClassHead, block.ClassRead, block.ClassTail, block.ClassFill})
		if !slices.Equal(order, wantOrder) {
			t.Errorf("order %v, want %v", order, wantOrder)
		}
		if g.free != 4 || g.bulk != 2 {
			t.Errorf("%d places free, %d of them for bulk", g.free, g.bulk)
		}
	})
}

func TestGateGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newSemaphore(2, time.Now)
		leave, err := g.enter(t.Context(), block.ClassFill)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := g.enter(ctx, block.ClassFill); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v, want the end of the context", err)
		}
		leave()
		if g.free != 2 || g.bulk != 1 || len(g.waiting[block.ClassFill]) != 0 {
			t.Errorf("after all left: %d free, %d bulk, %d waiting", g.free, g.bulk, len(g.waiting[block.ClassFill]))
		}
		if d := g.delay(block.ClassRead, 2); d <= 0 {
			t.Error("a place that was held a second does not show in the delay")
		}
	})
}
