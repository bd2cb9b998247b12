package predict

import (
	"context"
	"errors"
	"fmt"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/brisk-project/brisk/image/erofs"
	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/internal/block"
)

const (
	// MaxEntries is the most entries of all layers of an image that is looked at. Their tree takes
	// about 300 bytes for each while the layers are merged, and 80 after that.
	MaxEntries = 1 << 19
	// defaultMaxBytes is how much a prediction has at most where nobody says otherwise.
	defaultMaxBytes = 192 << 20
	// maxFiles is the most files of a prediction.
	maxFiles = 16384
)

// ErrNothing says that nothing can be predicted of an image. The text of the error has the reason.
var ErrNothing = errors.New("nothing can be predicted")

// Reader reads verified bytes of layer streams: it fills p with those from off on. An error that
// wraps [ErrBudget] ends the reading of files, not the prediction.
type Reader interface {
	ReadStream(ctx context.Context, layer block.Digest, p []byte, off int64) error
}

// ErrBudget says that a [Reader] has read as much as it may.
var ErrBudget = errors.New("enough has been read of the layers")

// Config says what is predicted.
type Config struct {
	// Layers are the indexes of all layers of the image, the bottom one first.
	Layers []*index.Layer
	// Image is the configuration of the image: its program, environment and working directory.
	Image v1.Config
	// Stream reads the layers.
	Stream Reader
	// MaxBytes is the most bytes of a prediction; zero means 192 MiB. What the start is likely
	// to read first comes first.
	MaxBytes int64
	// Note, if not nil, is told what was left out, and why.
	Note func(reason string)
}

// Run returns the trace that the start of an image is likely to have, marked as predicted. Errors
// wrap [ErrNothing] or the cause of ctx.
func Run(ctx context.Context, cfg Config) (startup.File, error) {
	entries := 0
	for _, l := range cfg.Layers {
		entries += l.EntryCount()
	}
	if entries > MaxEntries {
		return startup.File{}, fmt.Errorf("%w: the image has %d files, the limit is %d", ErrNothing, entries, MaxEntries)
	}
	args := append(append([]string(nil), cfg.Image.Entrypoint...), cfg.Image.Cmd...)
	if len(args) == 0 {
		return startup.File{}, fmt.Errorf("%w: the image names no program", ErrNothing)
	}
	tree, err := erofs.Merge(cfg.Layers)
	if err != nil {
		return startup.File{}, fmt.Errorf("%w: %w", ErrNothing, err)
	}
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = defaultMaxBytes
	}
	p := &predictor{
		rootfs: &rootfs{ctx: ctx, root: newTree(tree), layers: cfg.Layers, stream: cfg.Stream, failed: make(map[int32]error)}, cfg: cfg,
		env: environment(cfg.Image.Env), libraries: make(map[*node]*elfFile), seen: make(map[*node]bool),
	}
	// Whoever makes a container looks up its user.
	p.takeNamed("/etc/passwd", "/etc/group")
	p.command(args)
	if err := context.Cause(ctx); err != nil {
		return startup.File{}, fmt.Errorf("predicting a start: %w", err)
	}
	if !p.started || len(p.trace.Trace()) == 0 {
		return startup.File{}, fmt.Errorf("%w: %s", ErrNothing, strings.Join(p.notes, "; "))
	}
	return startup.File{Trace: p.trace.Trace(), Predicted: true}, nil
}

// predictor makes one prediction.
type predictor struct {
	*rootfs

	cfg       Config
	env       map[string]string
	trace     startup.Recorder
	bytes     int64 // that the trace has, about
	files     int
	started   bool // a program was found
	seen      map[*node]bool
	libraries map[*node]*elfFile // those that were parsed; nil for one that is none
	loader    *loader            // made for the first program that has shared libraries
	notes     []string
}

// maxNotes bounds what is kept of what was left out.
const maxNotes = 16

// note says why something is left out.
func (p *predictor) note(format string, args ...any) {
	reason := fmt.Sprintf(format, args...)
	if len(p.notes) < maxNotes {
		p.notes = append(p.notes, reason)
	}
	if p.cfg.Note != nil {
		p.cfg.Note(reason)
	}
}

// extent is a part of a file: Length bytes from Offset on.
type extent struct{ offset, length int64 }

// take adds parts of a file to the prediction, once for each file; without parts all of it.
func (p *predictor) take(f *node, parts ...extent) {
	if p.seen[f] || f.size == 0 || p.files >= maxFiles {
		return
	}
	p.seen[f] = true
	p.files++
	if len(parts) == 0 {
		parts = []extent{{0, f.size}}
	}
	stream := p.layers[f.layer].StreamID()
	for _, part := range parts {
		for _, s := range f.segments() {
			from, to := max(part.offset, s.FileOffset), min(part.offset+part.length, s.FileOffset+s.Length)
			to = min(to, from+p.cfg.MaxBytes-p.bytes)
			if from < to {
				p.trace.Add(startup.Span{Layer: stream, Offset: s.StreamOffset + from - s.FileOffset, Length: to - from})
				p.bytes += to - from
			}
		}
	}
}

// takeNamed adds whole files by name, those that there are.
func (p *predictor) takeNamed(names ...string) {
	for _, name := range names {
		if f, ok := p.file(name); ok {
			p.take(f.node)
		}
	}
}

// environment returns the variables of an image configuration.
func environment(list []string) map[string]string {
	env := make(map[string]string, len(list))
	for _, v := range list {
		if name, value, ok := strings.Cut(v, "="); ok {
			env[name] = value
		}
	}
	return env
}
