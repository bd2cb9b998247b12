package torture

import (
	"archive/tar"
	"fmt"
	"strings"
)

// contentImages try names, sizes and the shape of the tree.
func contentImages() []Image {
	return []Image{
		{Name: "no-entries", Layers: [][]byte{layer()}},
		{Name: "one-file", Layers: [][]byte{layer(file("file", 5))}},
		{Name: "sizes", Layers: [][]byte{layer(sizes()...)}},
		{Name: "names", Layers: [][]byte{layer(names()...)}},
		{Name: "deep", Layers: [][]byte{layer(deep()...)}},
		{Name: "wide", Layers: [][]byte{layer(wide()...)}},
		{Name: "sparse", Layers: [][]byte{layer(sparse(sparsePAX00, sparsePAX01, sparsePAX10)...)}},
		{Name: "sparse-gnu", Layers: [][]byte{layer(sparse(sparseGNU)...)}, Plain: [][]byte{layer(sparse(sparsePlain)...)}},
		{Name: "symlinks", Layers: [][]byte{layer(symlinks()...)}},
		{Name: "unpadded-end", Layers: [][]byte{
			layer(dir("below"), file("below/file", 700)),
			// The stream ends with the last byte of the last file.
			assemble(false, []item{file("first", 513), file("last", 1111)}),
		}},
	}
}

func sizes() []item {
	items := []item{dir("sizes")}
	for _, size := range []int{
		0, 1, 2, 100, 511, 512, 513, 1023, 1024, 1025, 4095, 4096, 4097, 8191, 8193, 65535, 65536, 65537,
		262143, 262144, 262145, 1<<20 - 1, 1 << 20, 1<<20 + 1, 4<<20 + 3,
	} {
		items = append(items, file(fmt.Sprintf("sizes/%d", size), size))
	}
	zeros := fileWith("sizes/zeros", make([]byte, 300_000))
	return append(items, zeros)
}

func names() []item {
	names := []string{
		"space in name", " leading", "trailing ", "new\nline", "tab\there", "quote'\"`", "back\\slash", "*?[x]", "$HOME", "%s%d%n",
		"-rf", "--", "...", "..a", ".a", ".wh", "x.wh.y", ".whx.", "!", "#x", "+page.js", ",", "~", "@", "=", ":", "a:b", "|", ";&",
		"\x01", "\x7f", "Ünïcödé", "漢字", "🦀", "e\u0301", "\u00e9", "\xff\xfe", "\xc3", "UPPER", "upper", "Upper", "con", "a", "aa", "aaa", "b",
		strings.Repeat("n", 255), strings.Repeat("n", 254), strings.Repeat("漢", 85), strings.Repeat("m", 100), strings.Repeat("m", 101),
	}
	items := []item{dir("names")}
	for i, name := range names {
		items = append(items, file("names/"+name, i))
	}
	for _, name := range names {
		items = append(items, dir("names/dir "+name[:min(len(name), 200)]))
	}
	// Names before "." in the order of bytes, alone in their directory.
	items = append(items, dir("before"), file("before/!", 1), file("before/-", 1), dir("before/#dir"))
	// A prefix directory and long names, so that the path passes 256 bytes.
	long := "names/dir space in name/" + strings.Repeat("p", 250)
	return append(items, dir(long), file(long+"/"+strings.Repeat("q", 255), 9))
}

func deep() []item {
	var items []item
	path := ""
	for i := range 150 {
		path += fmt.Sprintf("level%d", i)
		items = append(items, dir(path))
		path += "/"
	}
	items = append(items, file(path+"bottom", 1000), symlink(path+"up", strings.Repeat("../", 150)+"top"))
	path = ""
	for range 12 {
		path += strings.Repeat("long", 60)
		items = append(items, dir(path))
		path += "/"
	}
	return append(items, file(path+"bottom", 1000), link("top", path+"bottom"))
}

func wide() []item {
	items := []item{dir("wide")}
	for i := range 3000 {
		it := fileWith(fmt.Sprintf("wide/entry-%d", i*7919%3000), fmt.Appendf(nil, "%d", i))
		items = append(items, it)
	}
	items = append(items, dir("long"))
	for i := range 40 {
		items = append(items, file(fmt.Sprintf("long/%03d", i)+strings.Repeat("x", 252), i))
	}
	// Directories whose encoded size walks across a block of 512 bytes.
	for i := range 40 {
		name := fmt.Sprintf("step%d", i)
		items = append(items, dir(name))
		for j := range i {
			items = append(items, file(fmt.Sprintf("%s/%d", name, j), 1))
		}
	}
	return items
}

func symlinks() []item {
	items := []item{dir("links")}
	for _, length := range []int{1, 2, 59, 60, 61, 99, 100, 101, 255, 256, 400, 447, 448, 449, 479, 480, 481, 511, 512, 513, 1023, 1024, 4094, 4095} {
		target := strings.Repeat("t", length)
		if length > 255 {
			target = strings.Repeat("./", length/2) + strings.Repeat("x", length%2)
		}
		items = append(items, symlink(fmt.Sprintf("links/%d", length), target))
	}
	return append(items,
		symlink("links/absolute", "/links/1"),
		symlink("links/parent", "../links"),
		symlink("links/dot", "."),
		symlink("links/loop", "loop"),
		symlink("links/outside", "../../../../etc/passwd"),
		symlink("links/unicode", "漢字 \xff\n"),
		symlink("links/owned", "x").owner(1000, 1001).at(1_234_567_890, 123_456_789),
		symlink("links/xattr", "x").xattr("security.label", "of a symlink"),
	)
}

func devices() []item {
	return []item{
		dir("dev"),
		device("dev/null", tar.TypeChar, 1, 3).mode(0o666),
		device("dev/sda1", tar.TypeBlock, 8, 1).owner(0, 6),
		device("dev/zero-zero", tar.TypeChar, 0, 0),
		device("dev/wide-minor", tar.TypeChar, 5, 0xfffff),
		device("dev/wide-major", tar.TypeBlock, 0xfff, 256),
		device("dev/both", tar.TypeChar, 256, 65536).mode(0o4755),
		fifo("dev/pipe"),
		fifo("dev/owned-pipe").owner(5, 70000).mode(0o1622),
		link("dev/null-again", "dev/null").mode(0o666),
		link("dev/pipe-again", "dev/pipe").mode(0o600),
		device("dev/labelled", tar.TypeChar, 1, 5).xattr("security.label", "device"),
	}
}
