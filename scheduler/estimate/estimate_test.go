package estimate_test

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/brisk-project/brisk/scheduler/estimate"
)

const mb = 1_000_000

func TestTime(t *testing.T) {
	for _, tt := range []struct {
		name string
		load estimate.Load
		want estimate.ReadyTime
	}{
		{name: "warm"},
		{
			name: "queue, peers and registry",
			load: estimate.Load{
				Queued:        estimate.Bytes{Peers: 100 * mb, Registry: 50 * mb},
				Missing:       estimate.Bytes{Peers: 200 * mb, Registry: 25 * mb},
				PeerBandwidth: 100 * mb, RegistryBandwidth: 50 * mb,
			},
			want: estimate.ReadyTime{Queued: 2 * time.Second, Peers: 2 * time.Second, Registry: 500 * time.Millisecond},
		},
		{
			name: "bandwidths not measured",
			load: estimate.Load{Missing: estimate.Bytes{Peers: 125 * mb, Registry: 125 * mb}},
			want: estimate.ReadyTime{Peers: time.Second, Registry: 2 * time.Second},
		},
		{
			name: "nonsense",
			load: estimate.Load{
				Queued:        estimate.Bytes{Peers: -1, Registry: math.MinInt64},
				Missing:       estimate.Bytes{Peers: -5, Registry: math.MaxInt64},
				PeerBandwidth: -1, RegistryBandwidth: 1,
			},
			want: estimate.ReadyTime{Registry: estimate.MaxTime},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, estimate.Model{}.Time(tt.load)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestScore(t *testing.T) {
	for total, want := range map[time.Duration]int64{
		-time.Second:           100,
		0:                      100,
		100 * time.Millisecond: 100,
		5 * time.Second:        50,
		36 * time.Second:       12,
		math.MaxInt64:          0,
	} {
		if got := (estimate.Model{}).Score(total); got != want {
			t.Errorf("score of %v = %d, want %d", total, got, want)
		}
	}
	if got := (estimate.Model{TimeConstant: time.Second}).Score(time.Second); got != 50 {
		t.Errorf("score of tau = %d, want 50", got)
	}
}

func TestConfidence(t *testing.T) {
	for age, want := range map[time.Duration]float64{
		-time.Hour: 1, 0: 1, time.Minute: 1, 90 * time.Second: 0.5, 2 * time.Minute: 0, time.Hour: 0,
	} {
		if got := estimate.Confidence(age, time.Minute, 2*time.Minute); got != want {
			t.Errorf("confidence at %v = %v, want %v", age, got, want)
		}
	}
}

func TestBlendStaysBetween(t *testing.T) {
	warm, cold := estimate.ReadyTime{}, estimate.ReadyTime{Registry: 8 * time.Second}
	for confidence, want := range map[float64]time.Duration{
		2: 0, 1: 0, 0.5: 4 * time.Second, 0: 8 * time.Second, -3: 8 * time.Second, math.Inf(-1): 8 * time.Second,
	} {
		if got := estimate.Blend(warm, cold, confidence).Total(); got != want {
			t.Errorf("blend with confidence %v = %v, want %v", confidence, got, want)
		}
	}
	if got := estimate.Blend(warm, cold, math.NaN()).Total(); got != 8*time.Second {
		t.Errorf("blend with NaN = %v", got)
	}
}

// TestMonotone checks that more to load never makes a node look better.
func TestMonotone(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	amount := func() int64 { return random.Int64N(1 << random.IntN(62)) }
	for range 20_000 {
		model := estimate.Model{TimeConstant: time.Duration(amount())}
		load := estimate.Load{
			Queued: estimate.Bytes{Peers: amount(), Registry: amount()}, Missing: estimate.Bytes{Peers: amount(), Registry: amount()},
			PeerBandwidth: amount(), RegistryBandwidth: amount(),
		}
		more := load
		switch field := []*int64{&more.Queued.Peers, &more.Queued.Registry, &more.Missing.Peers, &more.Missing.Registry}; random.IntN(2) {
		case 0:
			*field[random.IntN(4)] += amount() / 2
		default:
			for _, f := range field {
				*f += amount() / 2
			}
		}
		before, after := model.Time(load).Total(), model.Time(more).Total()
		if after < before {
			t.Fatalf("time falls from %v to %v when %+v becomes %+v", before, after, load, more)
		}
		if model.Score(after) > model.Score(before) {
			t.Fatalf("score rises when %+v becomes %+v", load, more)
		}
	}
}

func FuzzEstimate(f *testing.F) {
	f.Add(int64(0), int64(0), int64(0), int64(0), int64(0), int64(0), int64(0), 0.5)
	f.Add(int64(math.MaxInt64), int64(math.MaxInt64), int64(math.MaxInt64), int64(math.MaxInt64), int64(1), int64(1), int64(1), math.NaN())
	f.Add(int64(math.MinInt64), int64(-1), int64(math.MinInt64), int64(5), int64(-1), int64(math.MinInt64), int64(-7), math.Inf(1))
	f.Fuzz(func(t *testing.T, queuedPeers, queuedRegistry, peers, registry, peerRate, registryRate, tau int64, confidence float64) {
		model := estimate.Model{TimeConstant: time.Duration(tau)}
		split := model.Time(estimate.Load{
			Queued:        estimate.Bytes{Peers: queuedPeers, Registry: queuedRegistry},
			Missing:       estimate.Bytes{Peers: peers, Registry: registry},
			PeerBandwidth: peerRate, RegistryBandwidth: registryRate,
		})
		blended := estimate.Blend(split, estimate.ReadyTime{Registry: time.Second}, confidence)
		for _, s := range []estimate.ReadyTime{split, blended} {
			if total := s.Total(); total < 0 || total > estimate.MaxTime || s.Queued < 0 || s.Peers < 0 || s.Registry < 0 {
				t.Errorf("time %+v is out of bounds", s)
			}
			if score := model.Score(s.Total()); score < 0 || score > estimate.MaxScore {
				t.Errorf("score %d is out of bounds", score)
			}
		}
		if c := estimate.Confidence(time.Duration(peers), time.Duration(registry), time.Duration(tau)); math.IsNaN(c) || c < 0 || c > 1 {
			t.Errorf("confidence %v is out of bounds", c)
		}
	})
}
