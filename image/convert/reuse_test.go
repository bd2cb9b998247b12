package convert

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNearest(t *testing.T) {
	tags := []string{
		"v1.2_accelerated", "v1.3", "v1.10_accelerated", "main_accelerated", "v1.3_accelerated",
		"v2_accelerated", "sha256-00", "v1.4_accelerated",
	}
	got := nearest(tags, "v1.3_accelerated", "_accelerated", 4)
	want := []string{"v1.4_accelerated", "v1.2_accelerated", "v1.10_accelerated", "v2_accelerated"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got := nearest(nil, "v1_accelerated", "_accelerated", 4); len(got) != 0 {
		t.Errorf("of nothing: %v", got)
	}
}
