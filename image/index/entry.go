package index

import "time"

// Type is the kind of filesystem object an [Entry] describes.
type Type uint8

// The kinds of entries a container layer holds.
const (
	TypeReg     Type = iota + 1 // regular file
	TypeDir                     // directory
	TypeSymlink                 // symbolic link
	TypeLink                    // hard link to another path
	TypeChar                    // character device
	TypeBlock                   // block device
	TypeFifo                    // named pipe
)

// Entry is one member of a layer's tar, in the order of the tar. Whiteouts are
// kept as the regular files they are in the tar (".wh." names); merging layers is
// the business of package erofs.
type Entry struct {
	// Path is cleaned, slash-separated and relative to the root, which is "".
	Path string
	Type Type
	// Mode holds the permission, set-id and sticky bits (07777), not the type.
	Mode uint32
	UID  uint32
	GID  uint32
	// Size is the length in bytes a reader of a regular file sees, holes
	// included. It is 0 for every other type.
	Size    int64
	ModTime time.Time
	// Link is the target of a symbolic link as written, or the cleaned path that
	// a hard link names.
	Link string
	// Major and Minor are the numbers of a device node.
	Major uint32
	Minor uint32
	// Xattrs is sorted by name. POSIX ACLs and file capabilities are among them.
	Xattrs []Xattr
	// Segments says where the content of a regular file lies in the layer stream,
	// in ascending order and without overlap; what no segment and no literal
	// covers is a hole. A file that is not sparse has exactly one segment, an
	// empty file none.
	Segments []Segment
	// Literals holds the parts of a sparse file whose position in the file and in
	// the stream differ modulo 512, so that no block device could map them. Real
	// tar programs do not write such files; their total size is limited.
	Literals []Literal
}

// Xattr is one extended attribute with its full name, such as "user.x".
type Xattr struct {
	Name  string
	Value string
}

// Segment maps Length bytes of a file, from FileOffset on, to the bytes of the
// layer stream from StreamOffset on. All are in bytes.
type Segment struct {
	FileOffset   int64
	StreamOffset int64
	Length       int64
}

// Literal is file content stored in the index itself.
type Literal struct {
	FileOffset int64
	Data       []byte
}
