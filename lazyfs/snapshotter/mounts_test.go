package snapshotter

import "testing"

func TestUses(t *testing.T) {
	t.Parallel()
	for options, want := range map[string]bool{
		"rw,lowerdir=/r/snapshots/3/fs,upperdir=/x":                     true,
		"rw,lowerdir=/r/snapshots/4/fs:/r/snapshots/3/fs,upperdir=/x":   true,
		"rw,lowerdir+=/r/snapshots/4/fs,lowerdir+=/r/snapshots/3/fs":    true,
		"rw,lowerdir=/tmp/mapped/0,upperdir=/r/snapshots/9/fs,workdir=": true,
		"rw,lowerdir=/r/snapshots/33/fs,upperdir=/r/snapshots/99/fs":    false,
		"rw,lowerdir=/r/snapshots/3,workdir=/r/snapshots/3/fs":          false,
		"": false,
	} {
		if got := uses(options, "/r/snapshots/3/fs", []string{"/r/snapshots/9/fs"}); got != want {
			t.Errorf("%q: %v", options, got)
		}
	}
}
