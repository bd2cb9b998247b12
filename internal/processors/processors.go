// Package processors measures how much of the machine's processors this process can use without
// slowing down other processes.
package processors

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// sample is the least time over which is measured: the kernel counts hundredths of a second
	// on each processor.
	sample = 50 * time.Millisecond
	// tick is what the kernel counts in.
	tick = 10 * time.Millisecond
	// idleFields are those of /proc/stat in which nothing ran, counted from the name: idle and iowait.
	firstIdle, lastIdle = 4, 5
	// stolen is the last field that counts: the two behind it are counted as user time, too.
	stolen = 8
)

// Reading is what has been counted up to a moment.
type Reading struct {
	At    time.Time
	Count int           // of processors
	Busy  time.Duration // of all processors together
	Own   time.Duration // of Busy, that of this process
}

// Free returns the number of processors that other processes have not used since an earlier reading:
// those that were idle, and those that this process has used itself.
func (r Reading) Free(since Reading) float64 {
	took := r.At.Sub(since.At)
	if took <= 0 || r.Count == 0 {
		return 0
	}
	others := max(0, (r.Busy-since.Busy)-(r.Own-since.Own))
	return max(0, float64(r.Count)-others.Seconds()/took.Seconds())
}

// Read returns a reading of this machine.
func Read() (Reading, error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return Reading{}, fmt.Errorf("reading what processors do: %w", err)
	}
	r, err := parse(stat)
	if err != nil {
		return Reading{}, fmt.Errorf("reading what processors do: %w", err)
	}
	var own unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &own); err != nil {
		return Reading{}, fmt.Errorf("reading what this process has used: %w", err)
	}
	r.At, r.Own = time.Now(), time.Duration(own.Utime.Nano()+own.Stime.Nano())
	return r, nil
}

// parse reads /proc/stat.
func parse(stat []byte) (r Reading, err error) {
	for line := range bytes.Lines(stat) {
		fields := bytes.Fields(line)
		if len(fields) <= lastIdle || !bytes.HasPrefix(fields[0], []byte("cpu")) {
			continue
		}
		if len(fields[0]) > len("cpu") {
			r.Count++
			continue
		}
		for i, field := range fields[1:min(len(fields), stolen+1)] {
			n, err := strconv.ParseInt(string(field), 10, 64)
			if err != nil {
				return r, err
			}
			if i+1 < firstIdle || i+1 > lastIdle {
				r.Busy += time.Duration(n) * tick
			}
		}
	}
	if r.Count == 0 {
		return r, errors.New("it names none")
	}
	return r, nil
}

// Meter measures over the time between its calls. Create it with [NewMeter].
type Meter struct {
	read func() (Reading, error)

	mu   sync.Mutex // guards what follows
	last Reading
	free float64
}

// NewMeter returns a meter of this machine.
func NewMeter() *Meter { return &Meter{read: Read} }

// Free returns the number of processors that other processes have not used in the last moments. If that
// cannot be read, all count as free.
func (m *Meter) Free() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Since(m.last.At) < sample {
		return m.free
	}
	now, err := m.read()
	if err != nil {
		m.last.At, m.free = time.Now(), unknown
		return m.free
	}
	m.free = unknown
	if m.last.Count == now.Count && now.At.Sub(m.last.At) < stale {
		m.free = now.Free(m.last)
	}
	m.last = now
	return m.free
}

const (
	// unknown is what is said to be free when it is not known.
	unknown = 1 << 16
	// stale is how old a reading may be to say something about now.
	stale = 10 * time.Second
)
