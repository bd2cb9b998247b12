package record

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// listening is the state of a listening socket in /proc/net/tcp.
const listening = "0A"

// listeningPorts returns the TCP ports on which the processes of a container listen. pid is
// its first process. The container may have the network of the machine, so what its own
// processes have open is what counts.
func listeningPorts(pid int) (ports []uint16, err error) {
	sockets := make(map[string]uint16) // by inode
	for _, name := range []string{"tcp", "tcp6"} {
		if err := readSockets(filepath.Join("/proc", strconv.Itoa(pid), "net", name), sockets); err != nil {
			return nil, err
		}
	}
	if len(sockets) == 0 {
		return nil, nil
	}
	pids, err := processes(pid)
	if err != nil {
		return nil, err
	}
	for _, pid := range pids {
		for _, inode := range socketsOf(pid) {
			if port, ok := sockets[inode]; ok {
				ports = append(ports, port)
			}
		}
	}
	return ports, nil
}

// readSockets reads the listening sockets of a network namespace.
func readSockets(path string, sockets map[string]uint16) error {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // no IPv6, or the container has ended
	}
	if err != nil {
		return fmt.Errorf("looking for listening ports: %w", err)
	}
	defer file.Close() //nolint:errcheck // read only
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 || fields[3] != listening {
			continue
		}
		_, hex, _ := strings.Cut(fields[1], ":")
		if port, err := strconv.ParseUint(hex, 16, 16); err == nil {
			sockets[fields[9]] = uint16(port)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("looking for listening ports: %w", err)
	}
	return nil
}

// processes returns the processes in the PID namespace of one. Those that end meanwhile are
// left out.
func processes(pid int) ([]int, error) {
	want, err := namespaceOf(pid)
	if err != nil {
		return nil, nil //nolint:nilerr // it has ended, and all others with it
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("looking for processes: %w", err)
	}
	var pids []int
	for _, entry := range entries {
		other, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if namespace, err := namespaceOf(other); err == nil && namespace == want {
			pids = append(pids, other)
		}
	}
	return pids, nil
}

func namespaceOf(pid int) (string, error) {
	return os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "ns", "pid"))
}

// socketsOf returns the inodes of the sockets that a process has open.
func socketsOf(pid int) (inodes []string) {
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // it has ended
	}
	for _, entry := range entries {
		to, err := os.Readlink(filepath.Join(dir, entry.Name()))
		if err != nil {
			continue
		}
		if inode, ok := strings.CutPrefix(to, "socket:["); ok {
			inodes = append(inodes, strings.TrimSuffix(inode, "]"))
		}
	}
	return inodes
}
