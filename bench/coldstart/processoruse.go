package coldstart

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	// quietSample is how long the machine is looked at.
	quietSample = 3 * time.Second
	// More than this means that others use the machine.
	maxBusyShare  = 0.05
	maxStealShare = 0.01
)

// ProcessorUse are shares of the time of all processors.
type ProcessorUse struct {
	Busy  float64 // neither idle nor waiting for a disk
	Steal float64 // taken by other virtual machines
}

// Quiet says whether figures of the machine mean anything.
func (p ProcessorUse) Quiet() bool { return p.Busy <= maxBusyShare && p.Steal <= maxStealShare }

func (p ProcessorUse) String() string {
	return fmt.Sprintf("%.1f %% busy, %.1f %% steal", 100*p.Busy, 100*p.Steal)
}

// MeasureProcessorUse looks at the processors for three seconds, in which the caller does nothing.
func MeasureProcessorUse(ctx context.Context) (ProcessorUse, error) {
	before, err := ReadProcessorTimes()
	if err != nil {
		return ProcessorUse{}, err
	}
	select {
	case <-time.After(quietSample):
	case <-ctx.Done():
		return ProcessorUse{}, ctx.Err()
	}
	after, err := ReadProcessorTimes()
	return after.Since(before), err
}

// ProcessorTimes are the times of all processors since the machine was started, in ticks.
type ProcessorTimes struct{ total, idle, steal float64 }

// Since returns what the processors did between two times.
func (t ProcessorTimes) Since(before ProcessorTimes) ProcessorUse {
	total := t.total - before.total
	if total <= 0 {
		return ProcessorUse{}
	}
	steal := t.steal - before.steal
	return ProcessorUse{Busy: (total - (t.idle - before.idle) - steal) / total, Steal: steal / total}
}

// ReadProcessorTimes reads /proc/stat.
func ReadProcessorTimes() (t ProcessorTimes, err error) {
	content, err := os.ReadFile("/proc/stat")
	if err != nil {
		return t, fmt.Errorf("reading the times of the processors: %w", err)
	}
	line, _, _ := strings.Cut(string(content), "\n")
	// cpu user nice system idle iowait irq softirq steal; what follows is in user already.
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return t, fmt.Errorf("reading the times of the processors: %q", line)
	}
	for i, field := range fields[1:9] {
		n, err := strconv.ParseFloat(field, 64)
		if err != nil {
			return t, fmt.Errorf("reading the times of the processors: %w", err)
		}
		t.total += n
		switch i {
		case 3, 4:
			t.idle += n
		case 7:
			t.steal = n
		}
	}
	return t, nil
}
