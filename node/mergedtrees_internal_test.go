package node

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/image/index/indextest"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/test/registrytest"
)

// A tree is merged once for all blocks that are dealt with one after the other, and not kept
// for longer.
func TestMergedTreesAreKeptForAWhile(t *testing.T) {
	built := indextest.Build(t, registrytest.Tar(t, registrytest.File{Name: "file", Data: []byte("x")}))
	layer, err := index.Open(bytes.NewReader(built.Encoded), int64(len(built.Encoded)))
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		var kept mergedTrees
		get := func(id string) any {
			t.Helper()
			tree, err := kept.get(block.Sum([]byte(id)), []*index.Layer{layer})
			if err != nil {
				t.Fatal(err)
			}
			return tree
		}
		first, other := get("first"), get("other")
		for range 3 {
			<-time.After(treeLife - time.Second)
			if get("first") != first || get("other") != other || first == other {
				t.Error("a tree was merged again, or is that of another image")
			}
		}
		<-time.After(treeLife + time.Second)
		kept.mu.Lock()
		if kept.trees != nil {
			t.Error("trees are kept for ever")
		}
		kept.mu.Unlock()
		if get("first") == first {
			t.Error("a tree has come back")
		}
	})
}
