package agent //nolint:testpackage // what it is made of takes half a minute to come together

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/snapshotter"
	"github.com/brisk-project/brisk/node"
)

// TestContainerStarts checks to which start the time of a pull is added.
func TestContainerStarts(t *testing.T) {
	zero := time.Unix(1000, 0)
	at := func(seconds int) time.Time { return zero.Add(time.Duration(seconds) * time.Second) }
	app, old := block.Digest{1}, block.Digest{2}
	start := func(image string, manifest block.Digest, began int) node.StartDelay {
		return node.StartDelay{
			Image: image, Manifest: manifest, Began: at(began), Mounting: time.Second, Waited: 2 * time.Second, Finished: at(began + 31),
		}
	}
	pulls := []snapshotter.PullStatus{
		{Image: "app", Manifest: app.String(), Started: at(100)},
		{Image: "old", Manifest: old.String(), Started: at(0)},
	}
	var got []time.Duration
	for _, held := range containerStarts([]node.StartDelay{
		start("app", app, 90),    // before the pull, which is one of after it was removed
		start("app", app, 104),   // the first after the pull
		start("app", app, 110),   // another container
		start("old", old, 120),   // pulled long before
		start("other", app, 130), // another name, pulled before this process began
	}, pulls) {
		got = append(got, held.Waited)
	}
	if diff := cmp.Diff([]time.Duration{3 * time.Second, 7 * time.Second, 3 * time.Second, 3 * time.Second, 3 * time.Second}, got); diff != "" {
		t.Error(diff)
	}
}
