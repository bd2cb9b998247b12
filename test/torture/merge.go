package torture

import (
	"archive/tar"
	"fmt"
	"slices"
	"strings"
)

// mergeImages try what layers do to each other.
func mergeImages() []Image {
	return []Image{
		{Name: "whiteouts", Layers: whiteouts()},
		{Name: "opaque", Layers: opaques()},
		{Name: "opaque-root", Layers: [][]byte{
			layer(dir("etc"), file("etc/old", 5), file("old", 5)),
			layer(dir("etc"), file("etc/new", 5), opaque(""), file("new", 5)),
		}},
		{Name: "type-changes", Layers: typeChanges()},
		{Name: "replaced-directories", Layers: replacedDirectories()},
		{Name: "twice-in-a-layer", Layers: twiceInALayer()},
		{Name: "symlinked-parents", Layers: symlinkedParents()},
		{Name: "implicit-parents", Layers: implicitParents()},
		{Name: "directory-times", Layers: directoryTimes()},
		{Name: "empty-layers", Layers: [][]byte{
			layer(), layer(dir("a"), file("a/file", 10)), layer(), {}, layer(file("a/other", 10)), layer(),
		}},
		{Name: "many-layers", Layers: manyLayers()},
		// The entry of a whiteout has a longer name than a file can have.
		{Name: "whiteouts-of-long-names", Layers: [][]byte{
			layer(file(strings.Repeat("n", 255), 5), dir("d"), file("d/"+strings.Repeat("漢", 85), 5), file("d/"+strings.Repeat("m", 252), 5), file("d/stays", 5)),
			layer(whiteout(strings.Repeat("n", 255)), whiteout("d/"+strings.Repeat("漢", 85)), whiteout("d/"+strings.Repeat("m", 252))),
		}},
	}
}

func whiteouts() [][]byte {
	return [][]byte{
		layer(
			dir("d"), file("d/gone", 10), file("d/stays", 10), file("d/again", 10), file("d/again2", 10),
			dir("d/dir"), file("d/dir/file", 10), dir("d/dir/deeper"), file("d/dir/deeper/file", 10),
			dir("d/dir-again"), file("d/dir-again/old", 10), dir("d/file-again"), file("d/file-again/old", 10),
			file("root-file", 10), dir("root-dir"), file("root-dir/file", 10),
			symlink("link-to-d", "d"), file("d/through-link", 10), symlink("d/symlink", "stays"), file("d/linked", 100), link("linked", "d/linked"),
			file("d/name with space", 1), file("d/.hidden", 1), file("d/.wh", 1), dir("marked"), file("marked/gone", 1)),
		layer(
			dir("d"), whiteout("d/gone"), whiteout("d/never-existed"), whiteout("no/such/directory"), whiteout("d/dir"),
			whiteout("d/again"), file("d/again", 20),
			whiteout("d/again2"),
			whiteout("d/dir-again"), dir("d/dir-again"), file("d/dir-again/new", 10),
			whiteout("d/file-again"), file("d/file-again", 10),
			whiteout("root-file"), whiteout("root-dir"), whiteout("link-to-d/through-link"), whiteout("d/symlink"), whiteout("d/linked"),
			whiteout("d/name with space"), whiteout("d/.hidden"),
			member("marked/.wh.gone/", tar.TypeDir, 0o755),
			// Left behind by a filesystem that images were once built on.
			member(".wh..wh.aufs", tar.TypeReg, 0o444), member(".wh..wh.orph/", tar.TypeDir, 0o700),
			member(".wh..wh.plnk/", tar.TypeDir, 0o700), file(".wh..wh.plnk/12.34", 5)),
		layer(dir("d"), file("d/gone", 30), dir("d/dir"), whiteout("d/stays"), file("root-dir/new", 1), whiteout("d/again2")),
		layer(whiteout("d")),
		layer(file("d/after-all", 10), whiteout("link-to-d")),
	}
}

func opaques() [][]byte {
	names := []string{"first", "middle", "last", "only", "twice", "new-only"}
	var lower, upper []item
	for _, name := range names[:5] {
		lower = append(lower,
			dir(name).xattr("user.lower", "1"), file(name+"/old", 10), file(name+"/both", 10), dir(name+"/sub"), file(name+"/sub/old", 10),
			dir(name+"/sub/deep"), file(name+"/sub/deep/old", 5), dir(name+"/gone"), file(name+"/gone/file", 10), file(name+"/linked", 100))
	}
	for _, name := range names {
		own := []item{
			// These sort before the marker.
			file(name+"/+page.js", 10), file(name+"/#x", 10), file(name+"/both", 20),
			dir(name + "/sub"), file(name+"/sub/new", 10),
		}
		switch name {
		case "first":
			upper = append(upper, dir(name), opaque(name))
			upper = append(upper, own...)
		case "middle":
			upper = append(upper, dir(name))
			upper = append(upper, own[:2]...)
			upper = append(upper, opaque(name))
			upper = append(upper, own[2:]...)
		case "last":
			upper = append(upper, dir(name))
			upper = append(upper, own...)
			upper = append(upper, link(name+"/kept-by-link", name+"/both"), opaque(name))
		case "only":
			upper = append(upper, opaque(name))
		case "twice":
			upper = append(upper, opaque(name), dir(name))
			upper = append(upper, own...)
			upper = append(upper, opaque(name))
		case "new-only":
			upper = append(upper, dir(name), opaque(name), file(name+"/file", 1))
		}
	}
	return [][]byte{
		layer(append(lower, symlink("to-first", "first"), dir("parent"), dir("parent/child"), file("parent/child/old", 1), file("parent/old", 1))...),
		layer(append(upper,
			// What a layer puts below a directory that it does not describe goes
			// with the directory when the marker comes later, and stays otherwise.
			file("parent/child/new", 1), file("parent/new", 1), opaque("parent"), file("parent/after/new", 1))...),
		layer(opaque("to-first"), file("first/third", 3), dir("last/sub"), opaque("last/sub"), opaque("created/by/marker")),
	}
}

// makers make one name of each type.
func makers() map[string]func(name string) []item {
	return map[string]func(name string) []item{
		"file":    func(name string) []item { return []item{file(name, 600)} },
		"dir":     func(name string) []item { return []item{dir(name)} },
		"full":    func(name string) []item { return []item{dir(name), file(name+"/child", 5), dir(name + "/sub")} },
		"symlink": func(name string) []item { return []item{symlink(name, "somewhere")} },
		"todir":   func(name string) []item { return []item{symlink(name, "../target")} },
		"char":    func(name string) []item { return []item{device(name, tar.TypeChar, 1, 3)} },
		"fifo":    func(name string) []item { return []item{fifo(name)} },
		"link":    func(name string) []item { return []item{link(name, "linked")} },
	}
}

// typeChanges goes from every type to every type, in a layer and between layers.
func typeChanges() [][]byte {
	kinds := []string{"file", "dir", "full", "symlink", "todir", "char", "fifo", "link"}
	base := []item{dir("target"), file("target/kept", 5), file("linked", 70)}
	lower, upper := []item{dir("between")}, []item{dir("within")}
	of := makers()
	// containerd sets the times of directories at the end of a layer, by name: it
	// gives up where a directory that the layer described is no more.
	refused := map[string]bool{"dir-symlink": true}
	for _, to := range kinds {
		refused["full-"+to] = to != "dir" && to != "full"
	}
	for _, from := range kinds {
		for _, to := range kinds {
			name := from + "-" + to
			lower = append(lower, of[from]("between/"+name)...)
			upper = append(upper, of[to]("between/"+name)...)
			if refused[from+"-"+to] {
				continue
			}
			upper = append(upper, of[from]("within/"+name)...)
			upper = append(upper, of[to]("within/"+name)...)
		}
	}
	return [][]byte{layer(slices.Concat(base, lower)...), layer(slices.Concat(base, upper)...)}
}

func replacedDirectories() [][]byte {
	return [][]byte{
		layer(dir("x"), file("x/1", 10), dir("x/sub"), file("x/sub/2", 10), dir("y").mode(0o700).owner(5, 6).xattr("user.y", "1"), file("y/1", 1)),
		layer(file("x", 10), dir("y").mode(0o755)),
		layer(dir("x").mode(0o711), file("x/3", 10), symlink("y", "x")),
		layer(dir("x/sub"), file("y/4", 10), whiteout("y/3")),
		layer(dir("y").mode(0o750), file("y/5", 10), symlink("x", "y")),
		layer(whiteout("x"), dir("x"), file("x/7", 10)),
	}
}

func twiceInALayer() [][]byte {
	return [][]byte{
		layer(dir("d"), file("d/lower", 5)),
		layer(
			file("file", 10), file("file", 2000).mode(0o600),
			dir("dir").mode(0o700).xattr("user.first", "1"), file("dir/kept", 5), dir("dir").mode(0o711).owner(9, 9).xattr("user.second", "2").at(1_000_000_000, 1),
			symlink("symlink", "one"), symlink("symlink", "two"),
			file("linked", 30), link("link", "linked"), file("linked", 40), link("link2", "linked"), link("link2", "link"),
			dir("d"), file("d/x", 1), dir("d"), file("d/x", 2), file("d/lower", 6),
			file("self", 1), link("other", "self"), link("other", "self")),
	}
}

func symlinkedParents() [][]byte {
	return [][]byte{
		layer(
			dir("usr"), dir("usr/lib"), dir("usr/bin"), symlink("lib", "usr/lib"), symlink("bin", "/usr/bin"),
			file("lib/in-lower", 10), file("bin/in-lower", 10),
			dir("deep"), dir("deep/er"), symlink("deep/er/up", "../../usr"), symlink("dangling", "made/up"), symlink("chain-1", "chain-2"), symlink("chain-2", "lib"),
			symlink("above", "../../../../usr"), symlink("absolute-above", "/../../usr/lib")),
		layer(
			file("lib/upper", 700), dir("lib/dir"), file("lib/dir/file", 5), symlink("bin/sh", "dash"), file("bin/dash", 50),
			file("deep/er/up/share/file", 5), file("dangling/file", 5), file("chain-1/chained", 5), file("above/escaped", 5), file("absolute-above/escaped", 5),
			link("bin/link", "lib/upper"), link("hard", "chain-1/chained"), whiteout("lib/in-lower"), device("lib/null", tar.TypeChar, 1, 3)),
		// The directory takes the place of the symbolic link, not of its target.
		layer(dir("lib").mode(0o700), file("lib/real", 5), dir("bin/"), opaque("deep/er/up")),
	}
}

func implicitParents() [][]byte {
	return [][]byte{
		layer(file("a/b/c/file", 10), file("a/b/other", 10), dir("x"), dir("late/dir"), dir("late").mode(0o700).owner(3, 4)),
		layer(file("a/b/d/file", 10), symlink("s/y/m/link", "target"), link("l/i/n/k", "a/b/d/file"), fifo("f/i/fifo")),
		layer(dir("a").mode(0o711), dir("a/b/c").owner(1, 1)),
	}
}

func directoryTimes() [][]byte {
	return [][]byte{
		layer(
			dir("described"), file("described/file", 1), dir("changed"), file("changed/file", 1), dir("emptied"), file("emptied/file", 1),
			dir("late"), file("late/file", 1), dir("untouched").at(1_111_111_111, 222_222_222), dir("untouched/sub").at(1_111_111_112, 0)),
		layer(
			dir("described").at(1_300_000_000, 1), file("described/new", 1), file("changed/new", 1), whiteout("emptied/file"),
			file("late/new", 1), dir("late").at(1_400_000_000, 2)),
		// A symbolic link in place of a directory that the same layer described.
		layer(dir("moved").at(1_450_000_000, 3), file("untouched/sub/file", 1)),
	}
}

func manyLayers() [][]byte {
	const count = 30
	layers := make([][]byte, count)
	for i := range layers {
		items := []item{
			dir("shared"), file("shared/every-layer", 100+i), file(fmt.Sprintf("shared/layer-%d", i), 1000*i),
			dir(fmt.Sprintf("own-%d", i)), file(fmt.Sprintf("own-%d/file", i), 700),
		}
		if i > 0 {
			items = append(items, link(fmt.Sprintf("own-%d/link", i), fmt.Sprintf("own-%d/file", i)))
		}
		if i%3 == 2 {
			items = append(items, whiteout(fmt.Sprintf("shared/layer-%d", i-1)))
		}
		if i%5 == 4 {
			items = append(items, dir(fmt.Sprintf("own-%d", i-3)), opaque(fmt.Sprintf("own-%d", i-3)))
		}
		layers[i] = layer(items...)
	}
	return layers
}
