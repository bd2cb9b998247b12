package torture

import (
	"archive/tar"
	"slices"
	"strings"
)

// formatImages try the formats of tar headers and of paths.
func formatImages() []Image {
	return []Image{
		{Name: "header-formats", Layers: [][]byte{layer(headerFormats()...)}},
		{Name: "sparse-after-global-header", Layers: [][]byte{
			layer(slices.Concat([]item{globalHeader("commit")}, sparse(sparsePAX10))...),
			layer(file("first", 700), globalHeader("odd length"), sparsePAX01("sparse", 20_000, []fragment{{512, 1024}, {19_968, 32}})),
		}},
		{Name: "unclean-paths", Layers: [][]byte{layer(uncleanPaths()...), layer(
			member("./", tar.TypeDir, 0o700), whiteout("./a/./gone"), opaque("./b"), file("/a/../a/new", 3))}},
	}
}

func headerFormats() []item {
	long := strings.Repeat("long-directory-name/", 9)
	items := []item{
		globalHeader("0123456789abcdef"),
		{raw: append(checksummed(rawHeader("v7-file", 0, 700, "")), padded(content("v7-file", 700))...)},
		{raw: checksummed(rawHeader("v7-directory/", 0, 0, ""))},
		{raw: append(checksummed(rawHeader("v7-directory/file", 0, 3, "")), padded([]byte("abc"))...)},
		dir("ustar").format(tar.FormatUSTAR),
		file("ustar/file", 1000).format(tar.FormatUSTAR),
		file("ustar/"+strings.Repeat("prefix/", 20)+"split", 10).format(tar.FormatUSTAR),
		symlink("ustar/symlink", "file").format(tar.FormatUSTAR),
		dir("gnu").format(tar.FormatGNU),
		file("gnu/"+long+"file", 1000).format(tar.FormatGNU),
		symlink("gnu/symlink", strings.Repeat("target/", 40)).format(tar.FormatGNU),
		link("gnu/link", "gnu/"+long+"file").format(tar.FormatGNU),
		file("gnu/"+strings.Repeat("n", 200), 10).format(tar.FormatGNU),
		file("gnu/"+strings.Repeat("e", 96), 10).format(tar.FormatGNU),
		file("gnu/negative-time", 10).format(tar.FormatGNU).at(-1000, 0),
		dir("pax"),
		file("pax/"+long+"file", 1000),
		symlink("pax/symlink", strings.Repeat("target/", 40)),
		link("pax/link", "pax/"+long+"file"),
		file("pax/漢字", 10),
	}
	named := file("pax/named", 10)
	named.header.Uname, named.header.Gname = "nobody", "nogroup"
	accessed := file("pax/accessed", 10)
	accessed.header.AccessTime = accessed.header.ModTime.Add(1e9)
	accessed.header.ChangeTime = accessed.header.ModTime.Add(2e9)
	return append(items, named, accessed)
}

// globalHeader is what git puts in front of an archive.
func globalHeader(comment string) item {
	return item{header: tar.Header{
		Typeflag: tar.TypeXGlobalHeader, Name: "pax_global_header", PAXRecords: map[string]string{"comment": comment},
	}}
}

func uncleanPaths() []item {
	return []item{
		member("./", tar.TypeDir, 0o711),
		member("./a/", tar.TypeDir, 0o755), file("./a/file", 5), file("./a/gone", 5), file("/absolute", 5), file("a//doubled", 5), file("a/./dot", 5),
		member("b", tar.TypeDir, 0o755), file("b/../b/dotdot", 5), file("../above", 5), file("../../a/above", 5), member("c//", tar.TypeDir, 0o755),
		symlink("/d", "./a/../a"), file("d/through", 5), link("./e", "./a/../a/file"), link("/f", "/a/file"), link("g", "../a/file"),
	}
}
