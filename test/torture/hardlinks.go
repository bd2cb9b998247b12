package torture

// linkImages try hard links.
func linkImages() []Image {
	return []Image{
		{Name: "hard-links", Layers: hardLinks()},
		{Name: "hard-links-across-layers", Layers: linksAcrossLayers(), NoOverlay: true},
		{Name: "whiteouts-after-entries", Layers: whiteoutsAfterEntries(), NoOverlay: true},
	}
}

// hardLinks links files of one layer. Upper layers hide and replace some of the names:
// the others go on being names of one file, whose link count stays.
func hardLinks() [][]byte {
	return [][]byte{
		layer(
			dir("a"), dir("b"),
			file("a/file", 3000), link("a/second", "a/file"), link("b/third", "a/second"), link("b/fourth", "a/file"),
			file("a/empty", 0), link("b/empty", "a/empty"),
			symlink("a/symlink", "file"), link("b/symlink", "a/symlink").mode(0o777),
			file("b/target", 600).mode(0o4755).owner(10, 20).xattr("user.x", "1"),
			// The header of a further link describes the file anew.
			link("b/target-again", "b/target").mode(0o600).owner(30, 40).at(1_000_000_000, 7),
			symlink("via", "a"), link("through-parent", "via/file"),
			link("absolute", "/a/file"), link("dotted", "./a/../a/file"),
			file("pair-a", 100), link("pair-b", "pair-a"), file("gone-a", 100), link("gone-b", "gone-a"),
			dir("over-directory"), file("over-directory/gone", 5), link("over-directory/link", "a/empty")),
		layer(
			whiteout("pair-a"), file("b/third", 50), whiteout("gone-a"), whiteout("gone-b"), dir("a"), whiteout("a/second"),
			file("x", 800), link("y", "x"), file("x", 900), link("z", "x"), link("over-directory", "z"),
			// A name of the layer below: another file from here on.
			file("a/empty", 4), link("b/empty", "a/empty"),
			// The target of the link is what the layer itself has, a whiteout, which hides as well.
			whiteout("hidden"), link("absolute", "hidden")),
		layer(file("b/again-target", 5), link("b/again", "b/again-target"), file("b/unrelated", 5)),
	}
}

// linksAcrossLayers links files of the layers below, which makes a file with names in
// several layers.
func linksAcrossLayers() [][]byte {
	return [][]byte{
		layer(
			dir("a"), dir("b"),
			file("a/file", 3000), link("a/second", "a/file"), link("b/third", "a/second"),
			file("a/empty", 0), link("b/empty", "a/empty"),
			file("a/lower", 2000), file("a/replaced", 1000), file("a/hidden", 1500), file("a/overwritten", 10),
			symlink("a/symlink", "file"), link("b/symlink", "a/symlink").mode(0o777),
			file("b/target", 600).mode(0o4755).owner(10, 20).xattr("user.x", "1"),
			// The header of a further link describes the file anew.
			link("b/target-again", "b/target").mode(0o600).owner(30, 40).at(1_000_000_000, 7),
			symlink("via", "a"), link("through-parent", "via/file"),
			link("absolute", "/a/file"), link("dotted", "./a/../a/file"),
			file("pair-a", 100), link("pair-b", "pair-a")),
		layer(
			// Of files of the layer below: the data stay there.
			link("b/of-lower", "a/lower"), link("b/of-replaced", "a/replaced"), file("a/replaced", 700),
			link("b/of-hidden", "a/hidden"), whiteout("a/hidden"),
			link("a/overwritten", "a/file"), link("of-symlink", "a/symlink").mode(0o777),
			dir("over-directory"), file("over-directory/gone", 5), link("over-directory", "a/file"),
			whiteout("pair-a")),
		layer(
			file("b/third", 50), link("chain-1", "b/of-lower"), link("chain-2", "chain-1").mode(0o640),
			whiteout("a/lower"), link("back", "pair-b"),
			file("x", 800), link("y", "x"), file("x", 900), link("z", "x"), link("y", "z")),
	}
}

// whiteoutsAfterEntries hide what an earlier entry of their layer has made.
func whiteoutsAfterEntries() [][]byte {
	return [][]byte{
		layer(dir("d"), file("d/again", 10), dir("x"), file("x/old", 5), file("lower", 5)),
		layer(
			file("d/again", 20), whiteout("d/again"), file("d/never", 5), whiteout("d/never"),
			file("x/6", 10), whiteout("x"), file("d/replaced", 5), whiteout("d/replaced"), file("d/replaced", 7),
			whiteout("lower"), whiteout("lower")),
	}
}
