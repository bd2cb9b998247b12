package files

import (
	"errors"
	"fmt"
	"strings"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/image/startup"
)

// zstdMagic begins every zstd frame, and no list of files.
const zstdMagic = "\x28\xb5\x2f\xfd"

// ErrOtherImage says that a trace is of another image.
var ErrOtherImage = errors.New("the trace is of another image")

// IsTrace reports whether the content of a file is an encoded trace, rather than a list of files.
func IsTrace(content []byte) bool { return strings.HasPrefix(string(content), zstdMagic) }

// Load returns the trace that a file has for an image, in either form: a trace, or a list of
// files. What the image does not have is left out: unknown counts the bytes of a trace, missing are
// paths of a list.
func Load(content []byte, layers []*index.Layer) (f startup.File, unknown int64, missing []string, err error) {
	if !IsTrace(content) {
		paths, err := ParseList(content)
		if err != nil {
			return f, 0, nil, err
		}
		f.Trace, missing, err = Trace(paths, layers)
		return f, 0, missing, err
	}
	if f, err = startup.ParseFile(content); err != nil {
		return f, 0, nil, err
	}
	inImage := f.Trace.Clip(StreamSizes(layers))
	// A trace is of whole pages: it may end up to a page after each layer.
	unknown = f.Trace.Bytes() - startup.Trace(nil).Union(inImage).Bytes()
	if len(inImage) == 0 {
		return f, unknown, nil, fmt.Errorf("%w: none of its %d spans is in a layer of this one", ErrOtherImage, len(f.Trace))
	}
	f.Trace = inImage
	return f, unknown, nil, nil
}
