package stream

import (
	"context"
	"sync"
	"time"

	"github.com/brisk-project/brisk/internal/block"
)

const (
	// flowGain is how many times bandwidth x delay of bytes are in flight. With more than once
	// what the rate that was seen takes, the rate grows from round trip to round trip until it is
	// that of the link, as in the start of TCP; after that the rest waits at the other side, and
	// hides what requests cost there and the time that processors do not have for us.
	flowGain = 3
	// flowFirst is how many bytes of blocks are in flight before anything is known: two
	// frames.
	flowFirst = 2 << 20
	// flowLeast and flowMost bound what is in flight. The least is two frames, one of
	// which is on its way while the other one is decoded.
	flowLeast = 2 << 20
	flowMost  = 64 << 20
	// flowRequests bounds the requests, as each takes memory to decode.
	flowRequests = 16
	// flowSample is the time over which a rate is measured.
	flowSample = 20 * time.Millisecond
	// flowDecay is what a sample without as much leaves of the highest rate: half of
	// it is left after about 0.7 s.
	flowDecay = 0.98
	// flowForget is how long nothing has to come for the delay to be measured anew.
	flowForget = 10 * time.Second
)

// flow measures how fast blocks come and how long the first one of a request takes. It knows
// nothing of links: the rate is that of what lies between here and the blocks, be it a registry,
// peers, or the processors that decode. It is not safe for concurrent use. The zero value knows
// nothing yet.
type flow struct {
	rate  float64   // bytes of blocks a second, the highest of late
	took  minMedian // by the first block of requests, of which some are on their way for another one
	start time.Time // of the sample
	bytes int
	last  time.Time // when a block came
}

// begin notes that a request is sent while no other one is in flight.
func (f *flow) begin(now time.Time) {
	f.start, f.bytes = now, 0
	if now.Sub(f.last) > flowForget {
		f.took = minMedian{}
	}
}

// first notes how long the first block of a request took.
func (f *flow) first(took time.Duration) {
	f.took.add(took.Seconds())
}

// delay returns how long the first block of a request takes, 0 if that is not known.
func (f *flow) delay() time.Duration { return time.Duration(f.took.early() * float64(time.Second)) }

// add notes that bytes of blocks have come.
func (f *flow) add(now time.Time, n int) {
	f.last = now
	f.bytes += n
	took := now.Sub(f.start)
	if took < max(flowSample, f.delay()) {
		return
	}
	f.rate = max(f.rate*flowDecay, float64(f.bytes)/took.Seconds())
	f.start, f.bytes = now, 0
}

// window returns how many bytes to have in flight.
func (f *flow) window() int {
	product := f.rate * f.delay().Seconds()
	if product == 0 {
		return flowFirst
	}
	return int(min(max(flowGain*product, flowLeast), flowMost))
}

// flows share a flow among the fillers that prefetch at a time. Each may have its equal part
// of the window in flight, and one request in any case.
type flows struct {
	mu       sync.Mutex // guards the fields below
	flow     flow
	inFlight int
	requests int
	lanes    int
	changed  chan struct{} // closed when less is in flight or there are fewer lanes
}

// lane is a filler's part. It is used by one filler at a time.
type lane struct {
	flows              *flows
	inFlight, requests int
	users              int
}

func newFlows() *flows { return &flows{changed: make(chan struct{})} }

func (f *flows) changeLocked() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// enter makes the lane count, until as many calls of leave.
func (l *lane) enter() {
	l.flows.mu.Lock()
	defer l.flows.mu.Unlock()
	if l.users++; l.users == 1 {
		l.flows.lanes++
	}
}

func (l *lane) leave() {
	l.flows.mu.Lock()
	defer l.flows.mu.Unlock()
	if l.users--; l.users == 0 {
		l.flows.lanes--
		l.flows.changeLocked()
	}
}

// acquire waits until a request for n more bytes may be in flight. What has arrived of one is not.
func (l *lane) acquire(ctx context.Context, n int) error {
	f := l.flows
	for {
		f.mu.Lock()
		window, lanes := f.flow.window(), max(f.lanes, 1)
		if l.requests == 0 || f.requests < flowRequests && l.requests < max(flowRequests/lanes, 1) &&
			f.inFlight < window && l.inFlight < window/lanes {
			if f.requests == 0 {
				f.flow.begin(time.Now())
			}
			f.inFlight, f.requests = f.inFlight+n, f.requests+1
			l.inFlight, l.requests = l.inFlight+n, l.requests+1
			f.mu.Unlock()
			return nil
		}
		changed := f.changed
		f.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// arrived says that n bytes are not in flight any more.
func (l *lane) arrived(n int) {
	f := l.flows
	f.mu.Lock()
	defer f.mu.Unlock()
	f.inFlight -= n
	l.inFlight -= n
	f.changeLocked()
}

// release ends a request, of which n bytes have not arrived.
func (l *lane) release(n int) {
	l.arrived(n)
	f := l.flows
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests--
	l.requests--
	f.changeLocked()
}

// ahead returns how many blocks of a trace may change their places: as much as is in flight
// arrives in any order.
func (f *flows) ahead() uint32 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return uint32(f.flow.window() / block.Size)
}

// measure returns a sink that tells the flow of what comes of a request that is sent now.
func (f *flows) measure(sink block.Sink) block.Sink {
	sent, first := time.Now(), true
	return func(k block.Key, data []byte) error {
		now := time.Now()
		f.mu.Lock()
		if first {
			first = false
			f.flow.first(now.Sub(sent))
		}
		f.flow.add(now, len(data))
		f.mu.Unlock()
		return sink(k, data)
	}
}
