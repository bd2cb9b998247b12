package node

import (
	"sync"
	"time"

	"github.com/brisk-project/brisk/image/erofs"
	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/internal/block"
)

// treeLife is how long merged trees are kept after their last use.
const treeLife = 10 * time.Second

// mergedTrees keeps the trees of images while many blocks of them are dealt with: to merge
// 100,000 entries takes much longer than anything that is then done with one block.
type mergedTrees struct {
	mu    sync.Mutex
	trees map[block.Digest]*erofs.Tree // by ID of the image
	end   *time.Timer
}

// get returns the tree of an image, merged from its layers if it is not kept.
func (m *mergedTrees) get(id block.Digest, layers []*index.Layer) (*erofs.Tree, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	tree := m.trees[id]
	if tree == nil {
		var err error
		if tree, err = erofs.Merge(layers); err != nil {
			return nil, err
		}
		if m.trees == nil {
			m.trees = make(map[block.Digest]*erofs.Tree)
		}
		m.trees[id] = tree
	}
	if m.end != nil {
		m.end.Stop()
	}
	m.end = time.AfterFunc(treeLife, m.drop)
	return tree, nil
}

// drop lets go of all trees.
func (m *mergedTrees) drop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.trees = nil
}
