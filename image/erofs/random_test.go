package erofs_test

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/brisk-project/brisk/image/erofs"
	"github.com/brisk-project/brisk/test/fstree"
)

// choices turns arbitrary bytes into choices.
type choices struct {
	data  []byte
	files []string // the names of files so far
}

func (c *choices) next(n int) int {
	if len(c.data) == 0 {
		return 0
	}
	b := c.data[0]
	c.data = c.data[1:]
	return int(b) % n
}

// dir chooses a path that most often is a directory, file one that most often is
// not, for otherwise hardly any image would be accepted.
func (c *choices) dir() string {
	if c.next(24) == 23 {
		return c.file()
	}
	path := []byte{"ab"[c.next(2)]}
	for range c.next(3) {
		path = append(path, '/', "ab"[c.next(2)])
	}
	return string(path)
}

func (c *choices) file() string {
	switch c.next(24) {
	case 23:
		return c.dir()
	case 1, 2, 3, 4, 5, 6:
		return string("cdef"[c.next(4)])
	default:
		return c.dir() + "/" + string("cdef"[c.next(4)])
	}
}

// target chooses the target of a hard link.
func (c *choices) target() string {
	if n := len(c.files); n > 0 && c.next(24) != 0 {
		return c.files[n-1-c.next(min(n, 6))]
	}
	return c.file()
}

// member chooses an entry of a layer.
func (c *choices) member(serial int) tar.Header {
	h := tar.Header{
		Name: c.file(), Typeflag: tar.TypeReg, Mode: 0o644, Format: tar.FormatPAX,
		ModTime: time.Unix(1_000_000_000+int64(serial), int64(serial)),
	}
	switch c.next(16) {
	case 0, 1, 2:
		h.Size = int64(c.next(4) * 300)
		c.files = append(c.files, h.Name)
	case 3, 4, 5:
		h.Name, h.Typeflag, h.Mode = c.dir(), tar.TypeDir, 0o755
	case 6:
		if c.next(2) == 0 {
			h.Name = c.dir()
		}
		h.Typeflag, h.Mode = tar.TypeSymlink, 0o777
		h.Linkname = [...]string{"", "./", "/", "../"}[c.next(4)] + c.dir()
	case 7, 8:
		h.Typeflag, h.Linkname = tar.TypeLink, c.target()
		c.files = append(c.files, h.Name)
	case 9:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, int64(c.next(3)), 1
	case 10:
		h.Typeflag = tar.TypeFifo
	case 11:
		dir, base := filepath.Split(h.Name)
		h.Name = dir + ".wh." + base
	case 12:
		h.Name = c.dir() + "/.wh..wh..opq"
	default:
		h.Typeflag = [...]byte{tar.TypeDir, tar.TypeReg, tar.TypeReg, tar.TypeLink, tar.TypeFifo}[c.next(5)]
		switch h.Typeflag {
		case tar.TypeLink:
			h.Linkname = c.target()
		case tar.TypeDir:
			h.Name = c.dir()
		}
		c.attributes(&h)
	}
	return h
}

// attributes chooses rare attributes.
func (c *choices) attributes(h *tar.Header) {
	h.Mode = [...]int64{0, 0o700, 0o2775, 0o4755, 0o1777, 0o640}[c.next(6)]
	h.Uid, h.Gid = c.next(3)*1000, c.next(3)*1000
	records := make(map[string]string)
	for range c.next(3) {
		switch c.next(5) {
		case 0:
			records["SCHILY.xattr.user."+c.file()] = c.dir()
		case 1:
			records["SCHILY.xattr.security.capability"] = "\x01\x00\x00\x02\x00\x20\x00\x00" + strings.Repeat("\x00", 12)
		case 2:
			records["SCHILY.xattr.trusted.x"] = "x"
		case 3:
			records["SCHILY.xattr.system.posix_acl_access"] = c.acl()
		case 4:
			if h.Typeflag == tar.TypeDir {
				records["SCHILY.xattr.system.posix_acl_default"] = c.acl()
			}
		}
	}
	h.PAXRecords = records
}

// acl chooses an ACL, or something like one.
func (c *choices) acl() string {
	value := []byte{2, 0, 0, 0}
	for _, tag := range []uint16{0x01, 0x02, 0x04, 0x08, 0x10, 0x20} {
		if tag&0x0a != 0 && c.next(2) == 0 || tag == 0x10 && len(value) == 4+2*8 {
			continue
		}
		value = binary.LittleEndian.AppendUint16(value, tag)
		value = binary.LittleEndian.AppendUint16(value, uint16(c.next(8)))
		value = binary.LittleEndian.AppendUint32(value, uint32(c.next(3)))
	}
	return string(value)
}

// layers chooses a few layers.
func (c *choices) layers(tb testing.TB) [][]byte {
	tb.Helper()
	layers := make([][]byte, 1+c.next(3))
	for i := range layers {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		for j := range 2 + c.next(9) {
			h := c.member(100*i + j)
			if err := w.WriteHeader(&h); err != nil {
				tb.Fatal(err)
			}
			if _, err := w.Write(bytes.Repeat([]byte{byte(j + 1)}, int(h.Size))); err != nil {
				tb.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			tb.Fatal(err)
		}
		layers[i] = buf.Bytes()
	}
	return layers
}

// describe lists the members of layers, for a failing test.
func describe(layers [][]byte) string {
	var text strings.Builder
	for i, layer := range layers {
		fmt.Fprintf(&text, "layer %d:\n", i)
		r := tar.NewReader(bytes.NewReader(layer))
		for h, err := r.Next(); err == nil; h, err = r.Next() {
			fmt.Fprintf(&text, "  %c %-20s %-10s size %d mode %o owner %d:%d time %d %q\n",
				h.Typeflag, h.Name, h.Linkname, h.Size, h.Mode, h.Uid, h.Gid, h.ModTime.Nanosecond(), h.PAXRecords)
		}
	}
	return text.String()
}

// bytesOf returns bytes to choose by.
func bytesOf(rng *rand.Rand) []byte {
	data := make([]byte, 400)
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	return data
}

// agree compares what containerd and a merge make of layers, or that both refuse
// them, and reports whether they were accepted.
func agree(t *testing.T, dir string, layers [][]byte) bool {
	t.Helper()
	want, wantErr := fstree.Unpack(t.Context(), dir, layers)
	tree, err := erofs.Merge(openLayers(t, layers))
	if (wantErr == nil) != (err == nil) && !onlyOverlayRefuses(wantErr) {
		t.Fatalf("containerd: %v; merge: %v\n%s", wantErr, err, describe(layers))
	}
	if err != nil {
		if !errors.Is(err, erofs.ErrInvalid) {
			t.Errorf("error %v is not ErrInvalid", err)
		}
		return false
	}
	if wantErr != nil {
		return false
	}
	got, err := snapshotOfTree(tree, layers)
	report(t, "merge", want, got, err)
	if t.Failed() {
		t.Fatal(describe(layers))
	}
	return true
}

// onlyOverlayRefuses reports whether containerd refuses layers for what it accepts with
// snapshotters that have no overlay: a hard link to a file of a layer below, and a
// whiteout of what the layer itself has.
func onlyOverlayRefuses(err error) bool {
	var link *os.LinkError
	return errors.As(err, &link) && errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.EEXIST)
}

// Layers that no one would write: whatever containerd makes of them, or that it
// refuses them, a merge does the same.
func TestMergeAgreesWithContainerd(t *testing.T) {
	root := fstree.TempDir(t)
	rng := rand.New(rand.NewPCG(3, 4))
	accepted := 0
	rounds := 200
	if raceEnabled {
		rounds = 30
	}
	for round := range rounds {
		c := choices{data: bytesOf(rng)}
		dir := filepath.Join(root, strconv.Itoa(round))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if agree(t, dir, c.layers(t)) {
			accepted++
		}
	}
	t.Logf("%d of %d images accepted by both", accepted, rounds)
}
