package record

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/internal/chroot"
)

const (
	// portCheck is how often it is looked for listening ports.
	portCheck = 50 * time.Millisecond
	// A program that listens, or says that it is ready, may still have something to load. A
	// start is over once nothing new has been read for settleQuiet, at the latest after
	// settleMax.
	settleQuiet = time.Second
	settleMax   = 5 * time.Second
)

// tracer knows what has been read so far.
type tracer interface{ Trace() startup.Trace }

// runUntil runs a program until its start is over, ends it, and returns what was met.
func (cfg Config) runUntil(ctx context.Context, read tracer, spec chroot.Spec) (met Until, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	logged := make(chan *regexp.Regexp, 2) // both streams may find something
	var patterns []*regexp.Regexp
	for _, u := range cfg.Until {
		if u.kind == byLog {
			patterns = append(patterns, u.pattern)
		}
	}
	shared := &sharedWriter{to: cfg.Output}
	output := func() *lines {
		return &lines{to: shared, patterns: patterns, found: func(p *regexp.Regexp) { logged <- p }}
	}
	c, err := chroot.Start(ctx, spec, output(), output())
	if err != nil {
		return Until{}, err
	}
	exited := make(chan error, 1)
	go func() { exited <- c.Wait() }()
	w := &watch{until: cfg.Until, pid: c.PID(), logged: logged, exited: exited}
	met, err = w.await(ctx)
	if err == nil && (met.kind == byPort || met.kind == byLog) {
		w.settle(ctx, read)
		err = context.Cause(ctx)
	}
	if !w.ended {
		cancel()
		w.exit = <-exited // that it was killed is what was wanted
	}
	return met, err
}

// watch waits for the end of a start.
type watch struct {
	until  []Until
	pid    int
	logged <-chan *regexp.Regexp
	exited chan error
	ended  bool  // the program has
	exit   error // of the program that has ended
}

// await returns the first condition that is met.
func (w *watch) await(ctx context.Context) (Until, error) {
	limit, last := maxTime, Until{}
	for _, u := range w.until {
		if u.kind == byTime && u.after < limit {
			limit, last = u.after, u
		}
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	ticker := time.NewTicker(portCheck)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return Until{}, context.Cause(ctx)
		case w.exit = <-w.exited:
			w.ended = true
			return w.onExit()
		case pattern := <-w.logged:
			return w.find(func(u Until) bool { return u.pattern == pattern }), nil
		case <-timer.C:
			if last.kind != byTime {
				return Until{}, fmt.Errorf("none of %v in %s", w.until, maxTime)
			}
			return last, nil
		case <-ticker.C:
			if u, ok, err := w.onPort(); err != nil || ok {
				return u, err
			}
		}
	}
}

// find returns the condition that a function chooses.
func (w *watch) find(chosen func(Until) bool) Until {
	return w.until[slices.IndexFunc(w.until, chosen)]
}

// onExit says whether the start of a program that has ended is over. One that fails has not
// started.
func (w *watch) onExit() (Until, error) {
	if w.exit != nil {
		return Until{}, w.exit
	}
	select {
	case pattern := <-w.logged: // among its last words
		return w.find(func(u Until) bool { return u.pattern == pattern }), nil
	default:
	}
	isExit := func(u Until) bool { return u.kind == byExit }
	if !slices.ContainsFunc(w.until, isExit) {
		return Until{}, errors.New("the program has ended before its start was over")
	}
	return w.find(isExit), nil
}

// onPort returns the condition that a listening port meets.
func (w *watch) onPort() (Until, bool, error) {
	if !slices.ContainsFunc(w.until, func(u Until) bool { return u.kind == byPort }) {
		return Until{}, false, nil
	}
	ports, err := listeningPorts(w.pid)
	if err != nil {
		return Until{}, false, err
	}
	for _, u := range w.until {
		if u.kind != byPort || len(ports) == 0 || u.port != 0 && !slices.Contains(ports, u.port) {
			continue
		}
		if u.port == 0 {
			u.port = ports[0]
		}
		return u, true, nil
	}
	return Until{}, false, nil
}

// settle returns once nothing new has been read for a while, or the program has ended.
func (w *watch) settle(ctx context.Context, read tracer) {
	timer := time.NewTimer(settleMax)
	defer timer.Stop()
	ticker := time.NewTicker(portCheck)
	defer ticker.Stop()
	last, since := int64(-1), time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case w.exit = <-w.exited:
			w.ended = true
			return
		case <-ticker.C:
		}
		if bytes := read.Trace().Bytes(); bytes != last {
			last, since = bytes, time.Now()
		} else if time.Since(since) > settleQuiet {
			return
		}
	}
}
