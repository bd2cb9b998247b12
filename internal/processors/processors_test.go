package processors

import (
	"errors"
	"math"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

func TestParse(t *testing.T) {
	t.Parallel()
	got, err := parse([]byte("cpu  100 10 50 1000 40 5 5 20 7 3\ncpu0 50 5 25 500 20 2 3 10 4 1\ncpu1 50 5 25 500 20 3 2 10 3 2\nintr 1 2 3\n"))
	if want := (Reading{Count: 2, Busy: 1900 * time.Millisecond}); err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	for _, wrong := range []string{"", "cpu 1 2 3", "cpu  100 x 50 1000 40 5 5 20\ncpu0 50 5 25 500 20 2 3 10\n"} {
		if r, err := parse([]byte(wrong)); err == nil {
			t.Errorf("%q was read as %+v", wrong, r)
		}
	}
}

func TestFree(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		now := Reading{Count: 4}
		var failed error
		m := &Meter{read: func() (Reading, error) {
			now.At = time.Now()
			return now, failed
		}}
		step := func(took, busy, own time.Duration, want float64) {
			t.Helper()
			<-time.After(took)
			now.Busy += busy
			now.Own += own
			if got := m.Free(); math.Abs(got-want) > 1e-9 {
				t.Errorf("%g processors are free, want %g", got, want)
			}
		}
		step(0, 0, 0, unknown)
		step(100*time.Millisecond, 200*time.Millisecond, 50*time.Millisecond, 2.5)
		step(10*time.Millisecond, 40*time.Millisecond, 0, 2.5) // too soon
		step(90*time.Millisecond, 360*time.Millisecond, 0, 0)
		step(100*time.Millisecond, 400*time.Millisecond, 400*time.Millisecond, 4) // all of it our own
		step(time.Hour, 0, 0, unknown)
		failed = errors.New("no /proc")
		step(time.Second, 0, 0, unknown)
	})
}

// TestRead reads this machine twice, with a processor kept busy by this process between.
func TestRead(t *testing.T) {
	first, err := Read()
	if err != nil {
		t.Fatal(err)
	}
	for begin, n := time.Now(), 0; time.Since(begin) < 200*time.Millisecond; n++ {
		runtime.KeepAlive(n)
	}
	second, err := Read()
	if err != nil {
		t.Fatal(err)
	}
	if second.Own <= first.Own || second.Busy <= first.Busy || second.Count != first.Count {
		t.Errorf("%+v, then %+v", first, second)
	}
	if free := second.Free(first); free < 0 || free > float64(second.Count)+0.2 {
		t.Errorf("%g of %d processors are free", free, second.Count)
	}
}
