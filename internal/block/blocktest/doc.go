// Package blocktest holds the conformance suite of the contracts in package
// block, the fixture it runs on, and a source to inject faults with.
//
// Every implementation of [block.Source] passes [TestSource], every
// implementation of [block.Store] passes [TestStore]:
//
//	func TestConformance(t *testing.T) {
//		blocktest.TestStore(t, blocktest.Standard(), func(*testing.T, *blocktest.Fixture) block.Store {
//			return cache.NewMemory(cache.MemoryConfig{Bytes: 64 << 20})
//		})
//	}
//
// A [Fixture] is a set of layer streams with known content. It is the
// [block.Layout] of its layers, so decorators that verify can be built from it.
//
// [Source] is the fake: a source over a fixture that can flip bits, lose blocks,
// fail, be slow, hang, and deliver whole frames. It passes the suite itself.
package blocktest
