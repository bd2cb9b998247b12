//go:build !race

package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// ticksPerSecond is in what the kernel says processor time: USER_HZ.
const ticksPerSecond = 100

// processUsage returns the processor time of a process and all below it, those that have
// ended included, and the sum of the largest resident sets of those that live.
func processUsage(pid int) (cpu time.Duration, memory int64, err error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, 0, err
	}
	children, ticks := make(map[int][]int), make(map[int]int64)
	for _, name := range stats {
		content, err := os.ReadFile(filepath.Clean(name))
		if err != nil {
			continue // it has ended
		}
		// pid (name) state ppid ... utime stime cutime cstime; the name may have spaces.
		before, after, _ := strings.Cut(string(content), " (")
		fields := strings.Fields(after[strings.LastIndexByte(after, ')')+1:])
		id, err := strconv.Atoi(before)
		if err != nil || len(fields) < 15 {
			return 0, 0, fmt.Errorf("reading %s: %q", name, content)
		}
		parent, err := strconv.Atoi(fields[1])
		if err != nil {
			return 0, 0, fmt.Errorf("reading %s: %w", name, err)
		}
		children[parent] = append(children[parent], id)
		for _, field := range fields[11:15] {
			n, err := strconv.ParseInt(field, 10, 64)
			if err != nil {
				return 0, 0, fmt.Errorf("reading %s: %w", name, err)
			}
			ticks[id] += n
		}
	}
	var sum int64
	for todo := []int{pid}; len(todo) > 0; todo = todo[1:] {
		sum += ticks[todo[0]]
		memory += peakMemory(todo[0])
		todo = append(todo, children[todo[0]]...)
	}
	return time.Duration(sum) * time.Second / ticksPerSecond, memory, nil
}

// peakMemory returns the largest resident set that a process has had, 0 if it has ended.
func peakMemory(pid int) int64 {
	content, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(content)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kilobytes, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
			if err == nil {
				return kilobytes << 10
			}
		}
	}
	return 0
}

func TestProcessUsage(t *testing.T) {
	before, memory, err := processUsage(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if memory < 1<<20 {
		t.Errorf("a Go program takes %d bytes of memory", memory)
	}
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		used, _, err := processUsage(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if used-before >= 50*time.Millisecond {
			return
		}
	}
	t.Error("a program that works for 10 s takes no processor time")
}
