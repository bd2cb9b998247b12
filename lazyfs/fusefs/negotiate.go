package fusefs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strconv"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Settings is the result of the FUSE handshake when a filesystem was mounted. The
// kernel asks once; a process that serves the filesystem later has to know.
type Settings struct {
	// Major and Minor are the version of the kernel's interface.
	Major uint32 `json:"major"`
	Minor uint32 `json:"minor"`
	// MaxReadAhead is the readahead that the kernel offered, in bytes.
	MaxReadAhead uint32 `json:"maxReadAhead"`
	// Flags are the capabilities that both have, and what the kernel says of itself.
	Flags uint64 `json:"flags"`
}

// Resumable reports whether the kernel hands out again what a process had read and not
// answered. Where it does not, readers would wait for ever for an answer that
// nobody can give.
func (s Settings) Resumable() bool { return s.Flags&fuse.CAP_HAS_RESEND != 0 }

// The layout of the messages of the INIT request, which are in the byte order of the
// machine. Sizes and offsets are in bytes.
const (
	inHeader  = 40
	initIn    = 64
	outHeader = 16

	opInit = 26

	inMajor, inMinor, inReadAhead, inFlags, inFlags2 = inHeader, inHeader + 4, inHeader + 8, inHeader + 12, inHeader + 16
	outFlags, outFlags2                              = outHeader + 12, outHeader + 32
	outInitSize                                      = outFlags2 + 4

	// extended says that there are more than 32 flags.
	extended = 1 << 30
	// messageSize is room for an INIT request and for its answer.
	messageSize = 64 << 10
)

// negotiate lets a new connection and go-fuse agree on how they talk.
func negotiate(fs fuse.RawFileSystem, fd int, opts Options) (*fuse.Server, Settings, error) {
	buf := make([]byte, messageSize)
	n, err := retry(func() (int, error) { return unix.Read(fd, buf) })
	if err != nil {
		return nil, Settings{}, fmt.Errorf("reading the first request: %w", err)
	}
	settings, err := parseInit(buf[:n])
	if err != nil {
		return nil, Settings{}, err
	}
	server, answer, err := introduce(fs, fd, buf[:n], opts)
	if err != nil {
		return nil, Settings{}, err
	}
	agreed := uint64(binary.NativeEndian.Uint32(answer[outFlags:])) | uint64(binary.NativeEndian.Uint32(answer[outFlags2:]))<<32
	settings.Flags &= agreed | extended | fuse.CAP_HAS_RESEND
	if _, err := retry(func() (int, error) { return unix.Write(fd, answer) }); err != nil {
		return nil, Settings{}, fmt.Errorf("answering the first request: %w", err)
	}
	return server, settings, nil
}

// renegotiate lets go-fuse find what was agreed on before.
func renegotiate(fs fuse.RawFileSystem, fd int, settings Settings, opts Options) (*fuse.Server, error) {
	server, _, err := introduce(fs, fd, settings.request(), opts)
	return server, err
}

// introduce makes a go-fuse server of a descriptor, gives it an INIT request, and
// returns its answer. go-fuse asks the descriptor that it is given for the
// request, so it gets one end of a pair of sockets first, which the real descriptor
// then takes the place of.
func introduce(fs fuse.RawFileSystem, fd int, request []byte, opts Options) (*fuse.Server, []byte, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a pair of sockets: %w", err)
	}
	theirs, ours := pair[0], pair[1]
	defer closeFD(ours)
	if _, err := unix.Write(ours, request); err != nil {
		closeFD(theirs)
		return nil, nil, fmt.Errorf("passing on the first request: %w", err)
	}
	// The magic name makes go-fuse take over a descriptor that is mounted already.
	// It closes it if it fails.
	server, err := fuse.NewServer(fs, "/dev/fd/"+strconv.Itoa(theirs), &fuse.MountOptions{
		MaxWrite:                 maxRead,
		MaxBackground:            maxBackground,
		EnableSymlinkCaching:     true,
		ExplicitDataCacheControl: true,
		EnableAcl:                opts.ACL,
		DisableSplice:            true,
		DisabledCapabilities:     fuse.CAP_PASSTHROUGH,
		ExtraCapabilities:        fuse.CAP_NO_OPENDIR_SUPPORT,
		Logger:                   slog.NewLogLogger(opts.Logger.Handler(), slog.LevelWarn),
	})
	if err != nil {
		return nil, nil, err
	}
	answer := make([]byte, messageSize)
	n, err := retry(func() (int, error) { return unix.Read(ours, answer) })
	if err != nil {
		return nil, nil, fmt.Errorf("taking over the first answer: %w", err)
	}
	if n < outInitSize {
		return nil, nil, fmt.Errorf("the first answer has only %d bytes", n)
	}
	if err := unix.Dup3(fd, theirs, unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("putting the FUSE device in place: %w", err)
	}
	return server, answer[:n], nil
}

// parseInit reads the INIT request of the kernel.
func parseInit(b []byte) (Settings, error) {
	if len(b) < inFlags2+4 || binary.NativeEndian.Uint32(b[4:]) != opInit {
		return Settings{}, fmt.Errorf("the first request (%d bytes) is not the one that comes first", len(b))
	}
	s := Settings{
		Major: binary.NativeEndian.Uint32(b[inMajor:]), Minor: binary.NativeEndian.Uint32(b[inMinor:]),
		MaxReadAhead: binary.NativeEndian.Uint32(b[inReadAhead:]), Flags: uint64(binary.NativeEndian.Uint32(b[inFlags:])),
	}
	if s.Flags&extended != 0 {
		s.Flags |= uint64(binary.NativeEndian.Uint32(b[inFlags2:])) << 32
	}
	return s, nil
}

// request returns an INIT request with these settings.
func (s Settings) request() []byte {
	b := make([]byte, inHeader+initIn)
	binary.NativeEndian.PutUint32(b[0:], uint32(len(b)))
	binary.NativeEndian.PutUint32(b[4:], opInit)
	binary.NativeEndian.PutUint64(b[8:], 1) // the number of the request
	binary.NativeEndian.PutUint32(b[inMajor:], s.Major)
	binary.NativeEndian.PutUint32(b[inMinor:], s.Minor)
	binary.NativeEndian.PutUint32(b[inReadAhead:], s.MaxReadAhead)
	binary.NativeEndian.PutUint32(b[inFlags:], uint32(s.Flags))
	binary.NativeEndian.PutUint32(b[inFlags2:], uint32(s.Flags>>32))
	return b
}

// retry repeats a system call that a signal has interrupted.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
