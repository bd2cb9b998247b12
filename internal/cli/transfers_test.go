package cli_test

import (
	"strings"
	"testing"
	"time"

	"github.com/brisk-project/brisk/internal/cli"
)

// clock is moved by hand.
type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

func newTransfers(terminal bool) (*cli.Transfers, *clock, *strings.Builder) {
	var out strings.Builder
	c := &clock{at: time.Unix(1_700_000_000, 0)}
	return cli.NewTransfers(cli.TransfersConfig{To: &out, Terminal: terminal, Now: c.now}), c, &out
}

// In a log there is a line of each transfer in progress, and one of all, every ten seconds.
func TestTransfersLog(t *testing.T) {
	transfers, clock, out := newTransfers(false)
	transfers.Plan("one", 100<<20)
	transfers.Plan("two", 50<<20)
	transfers.Plan("known", 50<<20)
	transfers.Skip("known")
	transfers.Advance("one", 0)
	transfers.Advance("two", 0)
	if out.Len() > 0 {
		t.Errorf("logged at once: %s", out)
	}
	clock.at = clock.at.Add(10 * time.Second)
	transfers.Advance("one", 20<<20)
	want := "one           20%  20.0 MiB of 100 MiB  2.0 MiB/s  40s left\n" +
		"two            0%  0 B of 50.0 MiB\n" +
		"total         35%  70.0 MiB of 200 MiB  2.0 MiB/s  1m5s left\n"
	if out.String() != want {
		t.Errorf("logged\n%swant\n%s", out, want)
	}
	out.Reset()
	clock.at = clock.at.Add(9 * time.Second)
	transfers.Advance("two", 50<<20)
	if out.Len() > 0 {
		t.Errorf("logged too early: %s", out)
	}
	clock.at = clock.at.Add(time.Second)
	transfers.Advance("one", 100<<20)
	if want := "total        100%  200 MiB of 200 MiB  7.5 MiB/s\n"; out.String() != want {
		t.Errorf("logged\n%swant\n%s", out, want)
	}
	out.Reset()
	if err := transfers.Close(); err != nil || out.Len() > 0 {
		t.Errorf("the end wrote %q, %v", out, err)
	}
}

// On a terminal the lines are drawn over those before, and removed at the end.
func TestTransfersTerminal(t *testing.T) {
	transfers, clock, out := newTransfers(true)
	transfers.Plan("one", 100<<20)
	transfers.Advance("one", 0)
	clock.at = clock.at.Add(time.Second)
	transfers.Advance("one", 50<<20)
	first := out.String()
	for _, want := range []string{"one          [=====     ]  50%  50.0 MiB of 100 MiB  50.0 MiB/s  1s left\n", "total        ["} {
		if !strings.Contains(first, want) {
			t.Errorf("%q is missing in %q", want, first)
		}
	}
	out.Reset()
	clock.at = clock.at.Add(time.Second)
	transfers.Advance("one", 75<<20)
	if !strings.HasPrefix(out.String(), "\x1b[2A\r\x1b[J") {
		t.Errorf("two lines were not erased: %q", out)
	}
	out.Reset()
	if err := transfers.Close(); err != nil || out.String() != "\x1b[2A\r\x1b[J" {
		t.Errorf("the end wrote %q, %v", out, err)
	}
	for line := range strings.SplitSeq(first, "\n") {
		if len(line) >= 80 {
			t.Errorf("%d columns: %q", len(line), line)
		}
	}
}

// Every unit that a rate may have.
func TestByteRate(t *testing.T) {
	for text, want := range map[string]cli.ByteRate{"20Mi": 20 << 20, "20MiB/s": 20 << 20, "5M": 5e6, "200Mbit": 25e6, "200Mbit/s": 25e6, "1000000": 1e6} {
		var r cli.ByteRate
		if err := r.Set(text); err != nil || r != want {
			t.Errorf("%s is %d, %v", text, r, err)
		}
	}
	for _, text := range []string{"", "fast", "20Mi/h", "-1"} {
		var r cli.ByteRate
		if err := r.Set(text); err == nil {
			t.Errorf("%q is a rate of %d", text, r)
		}
	}
}
