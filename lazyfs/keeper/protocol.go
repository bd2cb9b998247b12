package keeper

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	magic      = "BRK1"
	headerSize = len(magic) + 2
	maxText    = 255
	// MaxName is the longest name of a session, in bytes.
	MaxName = 64
	// maxDescriptors is how many descriptors of one message are received, to be
	// closed if there are more than one.
	maxDescriptors = 8
)

// kind is what a message says.
type kind uint8

const (
	kindPut     kind = iota + 1 // request: keep the descriptor under the name
	kindRemove                  // request: close the descriptor of that name
	kindTake                    // request: send duplicates of all descriptors
	kindPing                    // request: nothing
	kindSession                 // answer to take: one descriptor and its name
	kindDone                    // answer: done
	kindFailed                  // answer: failed, and why
	kindEnd                     // first unknown kind
)

// message is one message of the protocol.
type message struct {
	kind kind
	text string
}

// errMessage says that a message is not understood.
var errMessage = errors.New("message is not understood")

// parseMessage decodes one message.
func parseMessage(b []byte) (message, error) {
	if len(b) < headerSize || string(b[:len(magic)]) != magic {
		return message{}, fmt.Errorf("%w: it has %d bytes or does not begin with %s", errMessage, len(b), magic)
	}
	m := message{kind: kind(b[len(magic)]), text: string(b[headerSize:])}
	if int(b[len(magic)+1]) != len(m.text) {
		return message{}, fmt.Errorf("%w: its text has %d bytes, not %d", errMessage, len(m.text), b[len(magic)+1])
	}
	if m.kind == 0 || m.kind >= kindEnd {
		return message{}, fmt.Errorf("%w: kind %d is unknown", errMessage, m.kind)
	}
	switch m.kind {
	case kindPut, kindRemove, kindSession:
		return m, checkName(m.text)
	default:
		return m, nil
	}
}

// encode encodes a message. Texts that are too long are cut.
func (m message) encode() []byte {
	text := m.text[:min(len(m.text), maxText)]
	return append(append([]byte(magic), byte(m.kind), byte(len(text))), text...)
}

// checkName reports what is wrong with the name of a session: the service manager
// takes no colons and no control characters, so names are kept to what is plain.
func checkName(name string) error {
	if name == "" || len(name) > MaxName {
		return fmt.Errorf("name of a session has %d bytes, not 1 to %d", len(name), MaxName)
	}
	plain := func(r rune) bool { return r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '.' }
	if strings.IndexFunc(name, func(r rune) bool { return !plain(r) }) >= 0 {
		return fmt.Errorf("name %q of a session has characters beyond letters, digits, dots and dashes", name)
	}
	return nil
}

// send writes a message, with a descriptor unless fd is negative.
func send(conn *net.UnixConn, m message, fd int) error {
	var rights []byte
	if fd >= 0 {
		rights = unix.UnixRights(fd)
	}
	_, _, err := conn.WriteMsgUnix(m.encode(), rights, nil)
	return err
}

// receive reads a message. The caller owns the descriptor, which is negative if there
// was none.
func receive(conn *net.UnixConn) (message, int, error) {
	buf := make([]byte, headerSize+maxText+1)
	rights := make([]byte, unix.CmsgSpace(maxDescriptors*4))
	n, oobn, flags, _, err := conn.ReadMsgUnix(buf, rights)
	if err != nil {
		return message{}, -1, err
	}
	fds, err := descriptors(rights[:oobn])
	if err == nil && (len(fds) > 1 || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0) {
		err = fmt.Errorf("%w: it is too long or carries %d descriptors", errMessage, len(fds))
	}
	m, parseErr := parseMessage(buf[:n])
	if n == 0 {
		parseErr = net.ErrClosed
	}
	if err = errors.Join(err, parseErr); err != nil {
		closeAll(fds)
		return message{}, -1, err
	}
	if len(fds) == 0 {
		return m, -1, nil
	}
	return m, fds[0], nil
}

// descriptors returns the descriptors in control messages. On an error there are none.
func descriptors(control []byte) ([]int, error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errMessage, err)
	}
	var all []int
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			closeAll(all)
			return nil, fmt.Errorf("%w: %w", errMessage, err)
		}
		all = slices.Concat(all, fds)
	}
	return all, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		closeFD(fd)
	}
}

func closeFD(fd int) {
	_ = unix.Close(fd) //nolint:errcheck // a duplicate, through which nothing was written
}

// The device number of /dev/fuse.
const (
	fuseMajor = 10
	fuseMinor = 229
)

// checkFUSE returns an error if a descriptor is not one of the FUSE device.
func checkFUSE(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("looking at a descriptor: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || unix.Major(st.Rdev) != fuseMajor || unix.Minor(st.Rdev) != fuseMinor {
		return errors.New("the descriptor is not one of the FUSE device")
	}
	return nil
}
