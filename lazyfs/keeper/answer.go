package keeper

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// requestSize is the most a request can take, in bytes: the kernel refuses to be
	// read with less than what it may write at once.
	requestSize = 1<<20 + 4096
	// inHeaderSize and outHeaderSize are the sizes of the headers of requests and
	// answers.
	inHeaderSize  = 40
	outHeaderSize = 16
	// cloneDevice is the ioctl that attaches an open FUSE device to a connection.
	cloneDevice = 0x8004e500
	// notifyResend asks the kernel to hand out again what was not answered.
	notifyResend = 7
)

// Requests that have no answer, by their numbers in the kernel's interface.
const (
	opForget      = 2
	opInterrupt   = 36
	opNotifyReply = 41
	opBatchForget = 42
)

// Resend makes the kernel hand out again all requests of a FUSE connection that have
// been read and not answered. Linux does so since 6.9; the error is EINVAL before.
func Resend(fd int) error {
	var notice [outHeaderSize]byte
	binary.NativeEndian.PutUint32(notice[0:], outHeaderSize)
	binary.NativeEndian.PutUint32(notice[4:], notifyResend)
	if _, err := unix.Write(fd, notice[:]); err != nil {
		return fmt.Errorf("asking for unanswered requests: %w", err)
	}
	return nil
}

// answerer answers all requests of a connection with EIO.
type answerer struct {
	device *os.File
	done   chan struct{}
}

// startAnswering answers the requests of a connection until stop. It uses a second
// device of the connection, for it must not block, and whether a descriptor does is
// shared with all its duplicates.
func startAnswering(connection int, gone func(error)) (*answerer, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the FUSE device: %w", err)
	}
	if err := unix.IoctlSetPointerInt(fd, cloneDevice, connection); err != nil {
		closeFD(fd)
		return nil, fmt.Errorf("attaching to the connection: %w", err)
	}
	if err := Resend(connection); err != nil && !errors.Is(err, unix.EINVAL) {
		closeFD(fd)
		return nil, err
	}
	a := &answerer{device: os.NewFile(uintptr(fd), "/dev/fuse"), done: make(chan struct{})}
	go func() {
		defer close(a.done)
		if err := a.run(); err != nil {
			gone(err)
		}
	}()
	return a, nil
}

// stop returns when no request is being answered any more.
func (a *answerer) stop() error {
	// The deadline wakes the reader; a request it has read is still answered.
	err := a.device.SetReadDeadline(time.Unix(1, 0))
	<-a.done
	return errors.Join(err, a.device.Close())
}

// run returns nil when it was stopped.
func (a *answerer) run() error {
	request := make([]byte, requestSize)
	for {
		n, err := a.device.Read(request)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case errors.Is(err, syscall.EINTR), errors.Is(err, syscall.ENOENT): // the request has been withdrawn
			continue
		case err != nil:
			return err
		}
		answer, ok := refusal(request[:n])
		if !ok {
			continue
		}
		if _, err := a.device.Write(answer); err != nil && !errors.Is(err, syscall.ENOENT) {
			return err
		}
	}
}

// refusal returns the answer EIO to a request, false if it wants no answer.
func refusal(request []byte) ([]byte, bool) {
	if len(request) < inHeaderSize {
		return nil, false
	}
	switch binary.NativeEndian.Uint32(request[4:]) {
	case opForget, opBatchForget, opInterrupt, opNotifyReply:
		return nil, false
	}
	var answer [outHeaderSize]byte
	failure := -int32(unix.EIO)
	binary.NativeEndian.PutUint32(answer[0:], outHeaderSize)
	binary.NativeEndian.PutUint32(answer[4:], uint32(failure))
	copy(answer[8:], request[8:16]) // which request is answered
	return answer[:], true
}
