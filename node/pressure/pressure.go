// Package pressure reports when the machine is short of memory.
//
// Where the kernel has pressure stall information, it is the kernel that tells: when tasks have waited
// for memory for more than 300 ms of two seconds. Elsewhere MemAvailable is looked at every few
// seconds, which notices less: memory can be used up to the last byte without anybody waiting.
package pressure

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// trigger asks to be told when some task waited for 300 ms within 2 s. That part is of the order
	// at which systemd-oomd acts, and windows of whole multiples of 2 s need no capability. It is
	// told once a window at most.
	trigger = "some 300000 2000000"
	// defaultInterval is how often MemAvailable is looked at.
	defaultInterval = 5 * time.Second
	// shortShare is the part of the memory below which MemAvailable means that it is short: one of
	// so many.
	shortShare = 20
	// meminfoLimit bounds what is read of /proc/meminfo in bytes; it has some 1,500.
	meminfoLimit = 64 << 10
)

// Config configures [Config.Watch]. The zero value is good for use.
type Config struct {
	// Proc is where the proc filesystem is; empty means /proc.
	Proc string
	// Interval is how often MemAvailable is looked at where the kernel does not tell; zero
	// means 5 s.
	Interval time.Duration
	// Logger may be nil.
	Logger *slog.Logger
}

// Watch calls short whenever the machine is short of memory, at most every 2 s, until ctx
// ends. An error says that nobody can tell; it is nil when ctx has ended.
func (c Config) Watch(ctx context.Context, short func()) error {
	if c.Proc == "" {
		c.Proc = "/proc"
	}
	if c.Interval == 0 {
		c.Interval = defaultInterval
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	fd, err := register(filepath.Join(c.Proc, "pressure/memory"))
	if err != nil {
		c.Logger.DebugContext(ctx, "the kernel does not report memory pressure; using MemAvailable", "error", err)
		return c.watchAvailable(ctx, short)
	}
	defer func() { _ = unix.Close(fd) }() //nolint:errcheck // nothing was written but the trigger
	return awaitStalls(ctx, fd, short)
}

// register asks the kernel to tell of stalls.
func register(path string) (fd int, err error) {
	fd, err = unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("opening %s: %w", path, err)
	}
	if _, err := unix.Write(fd, append([]byte(trigger), 0)); err != nil {
		return -1, errors.Join(fmt.Errorf("asking for events of memory pressure: %w", err), unix.Close(fd))
	}
	return fd, nil
}

func awaitStalls(ctx context.Context, fd int, short func()) (err error) {
	ended, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("waiting for memory pressure: %w", err)
	}
	told := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(told)
		_, _ = unix.Write(ended, []byte{7: 1}) //nolint:errcheck // the counter of an eventfd has room
	})
	defer func() {
		if !stop() {
			<-told
		}
		err = errors.Join(err, unix.Close(ended))
	}()
	for ctx.Err() == nil {
		polled := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}, {Fd: int32(ended), Events: unix.POLLIN}}
		_, err := unix.Poll(polled, -1)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("waiting for memory pressure: %w", err)
		case polled[0].Revents&unix.POLLERR != 0:
			return errors.New("waiting for memory pressure: the kernel has taken the trigger back")
		case polled[0].Revents&unix.POLLPRI != 0:
			short()
		}
	}
	return nil
}

func (c Config) watchAvailable(ctx context.Context, short func()) error {
	ticker := time.NewTicker(c.Interval)
	defer ticker.Stop()
	for {
		total, available, err := readMemory(filepath.Join(c.Proc, "meminfo"))
		if err != nil {
			return err
		}
		if available < total/shortShare {
			short()
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// readMemory returns how much memory there is, and how much of it can be had, in KiB.
func readMemory(path string) (total, available int64, err error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, 0, fmt.Errorf("looking for free memory: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	found := map[string]int64{"MemTotal:": -1, "MemAvailable:": -1}
	lines := bufio.NewScanner(io.LimitReader(file, meminfoLimit))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || found[fields[0]] != -1 {
			continue
		}
		if found[fields[0]], err = strconv.ParseInt(fields[1], 10, 64); err != nil {
			return 0, 0, fmt.Errorf("reading %s: %w", fields[0], err)
		}
	}
	total, available = found["MemTotal:"], found["MemAvailable:"]
	if err := lines.Err(); err != nil || total < 0 || available < 0 {
		return 0, 0, errors.Join(fmt.Errorf("reading free memory: not found in %s", path), err)
	}
	return total, available, nil
}
