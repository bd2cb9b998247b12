package node

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/p2p"
)

const (
	// peerTraceTimeout is how long peers have to answer for a trace. They are asked while
	// the registry is asked for the index, which takes at least as long on most links.
	peerTraceTimeout = 150 * time.Millisecond
	// peerTraceAge is how long an answer is kept, for the mount that follows a pull;
	// peerMissAge how long it is known that there is none.
	peerTraceAge = 10 * time.Minute
	peerMissAge  = 5 * time.Second
	// maxPeerTraces bounds the answers that are kept.
	maxPeerTraces = 64
)

// traceHint is the name under which peers ask for the trace of an image.
func traceHint(manifest block.Digest) block.Digest { return p2p.HintName("trace/1", manifest) }

// Hint implements [p2p.Hints]: peers are told what this node has learnt of starts itself, so
// that nothing goes round in circles.
func (n *Node) Hint(_ context.Context, name block.Digest) ([]byte, error) {
	if encoded := n.startupTraces.hint(name); encoded != nil {
		return encoded, nil
	}
	if current := n.traceRecorders.current(name); len(current) > 0 {
		return current.Encode()
	}
	return nil, block.ErrNotFound
}

// hint returns the encoded trace that peers ask for by a name, nil if it is not known.
func (s *startupTraces) hint(name block.Digest) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, known := s.hints[name]
	if !known {
		return nil
	}
	_, _, encoded, err := s.readLocked(id)
	if err != nil {
		return nil
	}
	return encoded
}

// hinter is what is needed of peers to ask them for traces.
type hinter interface {
	Hint(ctx context.Context, name block.Digest, maxSize int64, use func([]byte) error) error
}

// peerTraces are the traces of images that peers have answered with.
type peerTraces struct {
	peers   hinter // nil without peers
	asking  sync.WaitGroup
	mu      sync.Mutex // guards what follows
	answers map[block.Digest]*peerTrace
}

// peerTrace is the answer of the peers for one image.
type peerTrace struct {
	asked time.Time
	done  chan struct{} // closed when the trace is set
	trace startup.Trace // empty if no peer has one
}

// ask asks the peers for the trace of an image, unless they have just been asked. It does not
// wait.
func (p *peerTraces) ask(ctx context.Context, manifest block.Digest) {
	if p.peers == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for image, answer := range p.answers {
		if now.Sub(answer.asked) > peerTraceAge {
			delete(p.answers, image)
		}
	}
	if answer := p.answers[manifest]; answer != nil && (now.Sub(answer.asked) < peerMissAge || !answer.isMiss()) {
		return
	}
	if len(p.answers) >= maxPeerTraces {
		return
	}
	answer := &peerTrace{asked: now, done: make(chan struct{})}
	p.answers[manifest] = answer
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), peerTraceTimeout)
	p.asking.Go(func() {
		defer close(answer.done)
		defer cancel()
		// That there is none is as good an answer.
		_ = p.peers.Hint(ctx, traceHint(manifest), startup.MaxEncoded, func(encoded []byte) error { //nolint:errcheck // see above
			read, err := startup.Parse(encoded)
			if err == nil && len(read) == 0 {
				err = errors.New("the trace is empty")
			}
			answer.trace = read
			return err
		})
	})
}

// isThere reports whether the peers have answered.
func (a *peerTrace) isThere() bool {
	select {
	case <-a.done:
		return true
	default:
		return false
	}
}

// isMiss reports whether it is known that no peer has the trace.
func (a *peerTrace) isMiss() bool { return a.isThere() && len(a.trace) == 0 }

// of returns the trace that peers have for an image, nil if there is none or they have not
// been asked. It waits for their answers.
func (p *peerTraces) of(manifest block.Digest) startup.Trace {
	answer := p.answer(manifest)
	if answer == nil {
		return nil
	}
	<-answer.done // which is at most peerTraceTimeout after the question
	return answer.trace
}

// known returns the trace that peers have answered with, without waiting.
func (p *peerTraces) known(manifest block.Digest) startup.Trace {
	if answer := p.answer(manifest); answer != nil && answer.isThere() {
		return answer.trace
	}
	return nil
}

// answer returns the answer of the peers for an image, nil if they have not been asked.
func (p *peerTraces) answer(manifest block.Digest) *peerTrace {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.answers[manifest]
}

// askPeersForTrace asks peers for the trace of an image that is about to be pulled or mounted,
// unless this node has one.
func (n *Node) askPeersForTrace(ctx context.Context, manifest block.Digest) {
	if !n.startupTraces.has(manifest) {
		n.peerTraces.ask(ctx, manifest)
	}
}
