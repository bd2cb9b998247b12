package kernel

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// MountInfo is one line of the list of mounts.
type MountInfo struct {
	Device  string // major:minor of the filesystem, the same for all its mounts
	Point   string // where it is mounted
	Type    string // which filesystem
	Source  string // what is mounted
	Options string // options of the filesystem
}

// Mounts returns the mounts of this process, in the order they were made.
func Mounts() ([]MountInfo, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("reading the list of mounts: %w", err)
	}
	defer f.Close() //nolint:errcheck // read only
	return parseMounts(f)
}

func parseMounts(r io.Reader) ([]MountInfo, error) {
	var all []MountInfo
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20) // options of a mount may take a page, and more by fsconfig
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		mount, fs := strings.Fields(before), strings.Fields(after)
		if !ok || len(mount) < 6 || len(fs) < 3 {
			return nil, fmt.Errorf("reading the list of mounts: line %.100q is not understood", lines.Text())
		}
		all = append(all, MountInfo{
			Device: mount[2], Point: unescape(mount[4]), Type: fs[0], Source: unescape(fs[1]), Options: unescape(fs[2]),
		})
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading the list of mounts: %w", err)
	}
	return all, nil
}

// unescape undoes the octal escapes of spaces and the like.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// Device returns the number of the filesystem that holds path, as [MountInfo] shows it.
func Device(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", fmt.Errorf("asking for the device number of %s: %w", path, err)
	}
	// Device numbers of mounts pass 255, so the parts must be taken apart properly.
	return fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)), nil
}

// BootID returns an ID that changes with each start of the machine.
func BootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("asking when the machine was started: %w", err)
	}
	return strings.TrimSpace(string(id)), nil
}

// SetReadAhead sets the readahead window of the filesystem mounted on dir.
func SetReadAhead(dir string, bytes int) error {
	device, err := Device(dir)
	if err != nil {
		return err
	}
	if err := os.WriteFile("/sys/class/bdi/"+device+"/read_ahead_kb", []byte(strconv.Itoa(bytes>>10)), 0); err != nil {
		return fmt.Errorf("setting the readahead window: %w", err)
	}
	return nil
}

// CachedPages returns how many pages of a file are in the page cache, dirty or not. Kernels
// before 6.5 do not say.
func CachedPages(path string) (uint64, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("opening %s: %w", path, err)
	}
	defer closeFD(fd)
	var stat unix.Cachestat_t
	if err := unix.Cachestat(uint(fd), &unix.CachestatRange{}, &stat, 0); err != nil { // a length of 0 is all of it
		return 0, fmt.Errorf("asking for the cached pages of %s: %w", path, err)
	}
	return stat.Cache, nil
}

// DirectAlign returns the alignment in bytes that reads of a file need when they
// bypass the page cache, 0 if they cannot.
func DirectAlign(path string) (uint32, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_DIOALIGN, &st); err != nil {
		return 0, fmt.Errorf("asking for the alignment of %s: %w", path, err)
	}
	if st.Mask&unix.STATX_DIOALIGN == 0 {
		return 0, nil
	}
	return max(st.Dio_offset_align, st.Dio_mem_align), nil
}
