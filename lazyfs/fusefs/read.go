package fusefs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/lazyfs/stream"
)

// killCheck is how often a reader that was interrupted is looked at.
const killCheck = 250 * time.Millisecond

// Reads makes the contexts of reads and ends them all at once.
type Reads struct {
	closed    chan struct{}
	suspended chan struct{}
	once      sync.Once
}

// NewReads returns a Reads whose contexts live until Close.
func NewReads() *Reads {
	return &Reads{closed: make(chan struct{}), suspended: make(chan struct{})}
}

// Close ends every read with [context.Canceled]. It must be called once.
func (r *Reads) Close() { close(r.closed) }

// suspend ends every read that waits, and leaves reads that fail without an answer
// until Close.
func (r *Reads) suspend() { r.once.Do(func() { close(r.suspended) }) }

// Context returns the context of the read that the caller of a request waits for,
// and what ends it. interrupt is the channel go-fuse closes on FUSE_INTERRUPT.
//
// An interrupt alone does not end a read: the kernel sends one for every signal,
// such as those the Go runtime preempts goroutines with, and the answer EINTR would
// fail a page that other readers want too. A reader that is being killed, however,
// could not die before the answer, so then the read ends with [ErrKilled].
func (r *Reads) Context(interrupt <-chan struct{}, pid uint32) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(&fuse.Context{Cancel: r.closed})
	stopSuspended := context.AfterFunc(&fuse.Context{Cancel: r.suspended}, func() { cancel(context.Canceled) })
	stop := context.AfterFunc(&fuse.Context{Cancel: interrupt}, func() {
		tick := time.NewTicker(killCheck)
		defer tick.Stop()
		for {
			if dying(pid) {
				cancel(ErrKilled)
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	return ctx, func() {
		stop()
		stopSuspended()
		cancel(context.Canceled)
	}
}

// Read fills p with the bytes of a layer stream from off on for the caller of a
// request, and returns the status to answer with.
func (r *Reads) Read(interrupt <-chan struct{}, caller fuse.Caller, l *stream.Layer, p []byte, off int64) fuse.Status {
	if l.ReadLocal(p, off) {
		return fuse.OK
	}
	ctx, cancel := r.Context(interrupt, caller.Pid)
	defer cancel()
	err := l.Fetch(ctx, p, off)
	if err != nil {
		select {
		case <-r.suspended:
			<-r.closed // another process will answer
		default:
		}
	}
	return Errno(err)
}

// dying reports whether the task has SIGKILL pending, which is also how the kernel
// delivers every other signal that ends a process.
func dying(tid uint32) bool {
	if tid == 0 {
		return false
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil {
		return os.IsNotExist(err)
	}
	for line := range bytes.Lines(status) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		if string(name) != "SigPnd" && string(name) != "ShdPnd" {
			continue
		}
		pending, err := strconv.ParseUint(string(bytes.TrimSpace(value)), 16, 64)
		if err == nil && pending&(1<<(unix.SIGKILL-1)) != 0 {
			return true
		}
	}
	return false
}
