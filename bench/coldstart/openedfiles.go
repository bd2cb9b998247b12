package coldstart

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// OpenedFiles are the regular files that a start opens.
type OpenedFiles struct {
	Files int
	Bytes int64 // all of their content
	// CompressedBytes is that as eStargz has it: each file by itself, in chunks of 4 MiB,
	// with the best compression of gzip.
	CompressedBytes int64
}

// estargzChunk is the default of stargz-snapshotter's ctr-remote.
const estargzChunk = 4 << 20

const eventBuffer = 64 << 10

// OpenWatcher notes which files of a filesystem are opened.
type OpenWatcher struct {
	events *os.File
	done   chan error

	mu    sync.Mutex
	files map[inode]*os.File
}

type inode struct{ device, number uint64 }

// WatchOpens watches the filesystem that a path is on, in all mount namespaces. It needs
// root.
func WatchOpens(path string) (*OpenWatcher, error) {
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK|unix.FAN_UNLIMITED_QUEUE, unix.O_RDONLY|unix.O_LARGEFILE|unix.O_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("watching opened files: %w", err)
	}
	w := &OpenWatcher{events: os.NewFile(uintptr(fd), "fanotify"), done: make(chan error, 1), files: make(map[inode]*os.File)}
	if err := unix.FanotifyMark(fd, unix.FAN_MARK_ADD|unix.FAN_MARK_FILESYSTEM, unix.FAN_OPEN, unix.AT_FDCWD, path); err != nil {
		return nil, fmt.Errorf("watching opened files of %s: %w", path, errors.Join(err, w.events.Close()))
	}
	go func() { w.done <- w.read() }()
	return w, nil
}

// read reads events until its deadline, which [OpenWatcher.Stop] sets.
func (w *OpenWatcher) read() error {
	buf := make([]byte, eventBuffer)
	for {
		n, err := w.events.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err == nil {
			err = w.parse(buf[:n])
		}
		if err != nil {
			return fmt.Errorf("reading which files are opened: %w", err)
		}
	}
}

// drain reads the events that read has left.
func (w *OpenWatcher) drain() error {
	conn, err := w.events.SyscallConn()
	if err != nil {
		return err
	}
	var readErr error
	err = conn.Control(func(fd uintptr) {
		buf := make([]byte, eventBuffer)
		for readErr == nil {
			n, err := unix.Read(int(fd), buf)
			if errors.Is(err, unix.EAGAIN) {
				return
			}
			if readErr = err; err == nil {
				readErr = w.parse(buf[:n])
			}
		}
	})
	return errors.Join(err, readErr)
}

func (w *OpenWatcher) parse(events []byte) error {
	r := bytes.NewReader(events)
	for r.Len() > 0 {
		var event unix.FanotifyEventMetadata
		if err := binary.Read(r, binary.NativeEndian, &event); err != nil {
			return err
		}
		if event.Fd >= 0 {
			w.add(os.NewFile(uintptr(event.Fd), "opened"))
		}
	}
	return nil
}

// add keeps a file, unless it is kept already or is not a regular one.
func (w *OpenWatcher) add(file *os.File) {
	var stat unix.Stat_t
	keep := unix.Fstat(int(file.Fd()), &stat) == nil && stat.Mode&unix.S_IFMT == unix.S_IFREG
	key := inode{stat.Dev, stat.Ino}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, known := w.files[key]; known || !keep {
		_ = file.Close() //nolint:errcheck // it was only read
		return
	}
	w.files[key] = file
}

// Stop ends the watch, and reads and compresses what was opened until then.
func (w *OpenWatcher) Stop() (o OpenedFiles, err error) {
	err = errors.Join(w.events.SetReadDeadline(time.Now()), <-w.done)
	if err = errors.Join(err, w.drain(), w.events.Close()); err != nil {
		return o, err
	}
	for _, file := range w.files {
		size, compressed, readErr := compressedSize(file)
		if err = errors.Join(err, readErr, file.Close()); readErr != nil {
			continue
		}
		o.Files++
		o.Bytes += size
		o.CompressedBytes += compressed
	}
	return o, err
}

// counter counts what is written to it.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

func compressedSize(file *os.File) (size, compressed int64, err error) {
	var n counter
	content := io.NewSectionReader(file, 0, 1<<40)
	for {
		z, err := gzip.NewWriterLevel(&n, gzip.BestCompression)
		if err != nil {
			return 0, 0, err
		}
		read, err := io.CopyN(z, content, estargzChunk)
		size += read
		if read > 0 || size == 0 {
			if closeErr := z.Close(); closeErr != nil {
				return 0, 0, closeErr
			}
		}
		if errors.Is(err, io.EOF) {
			return size, int64(n), nil
		}
		if err != nil {
			return 0, 0, fmt.Errorf("reading an opened file: %w", err)
		}
	}
}
