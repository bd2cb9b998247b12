package lazyfs

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/image/erofs"
	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/fusefs"
	"github.com/brisk-project/brisk/lazyfs/kernel"
)

// What becomes of the mounts of a process before this one.
const (
	resultAdopted = "adopted" // this process goes on with it
	resultGone    = "gone"    // the mount, or the connection it needs, is not there any more
	resultBroken  = "broken"  // it is there, but what has to be known of it is not
)

func newRestored(reg prometheus.Registerer) (*prometheus.CounterVec, error) {
	if reg == nil {
		return nil, nil //nolint:nilnil // nothing is counted then
	}
	c := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "brisk_lazyfs_restored_mounts_total", Help: "Mounts of processes before this one, by what became of them.",
	}, []string{"result"})
	if err := reg.Register(c); err != nil {
		return nil, fmt.Errorf("registering the metrics of restored mounts: %w", err)
	}
	return c, nil
}

// restorer goes on with the mounts of a process before this one.
type restorer struct {
	fs       *FS
	start    func(func(context.Context)) error
	mounts   []kernel.MountInfo
	sessions map[string]sessionRecord
	held     map[string]int // descriptors that the store has given back, by session
	flat     string         // the session of the flat filesystem, once a mount needs it
	kept     kept
}

// revival is a mount on its way to be served again.
type revival struct {
	*Mount

	file   string // of its record
	record mountRecord
}

// restore goes on with what can be gone on with. It fails only if nothing can be known;
// whatever is wrong with one mount concerns that one.
func (fs *FS) restore(ctx context.Context, start func(func(context.Context)) error) (kept, error) {
	r := &restorer{
		fs: fs, start: start, sessions: make(map[string]sessionRecord), held: make(map[string]int),
		kept: kept{devices: make(map[string]bool), points: make(map[string]bool)},
	}
	var err error
	if r.mounts, err = kernel.Mounts(); err != nil {
		return r.kept, err
	}
	names, err := fs.records.list()
	if err != nil {
		return r.kept, err
	}
	r.receiveSessions(ctx)
	defer r.discard(ctx)
	r.readSessions(ctx, names)
	var flat []*revival
	for _, name := range names {
		if !isMountRecord(name) {
			continue
		}
		m, err := r.revive(ctx, name)
		if err == nil && m.backend != Tree && !m.direct() {
			flat = append(flat, m) // they are served together
			continue
		}
		r.finish(ctx, name, m, err)
	}
	err = r.serveFlat(ctx, flat)
	for _, m := range flat {
		r.finish(ctx, m.file, m, err)
	}
	return r.kept, nil
}

// receiveSessions gets the FUSE connections from the keeper. If it fails there are none.
func (r *restorer) receiveSessions(ctx context.Context) {
	if r.fs.cfg.Keeper == nil {
		return
	}
	held, err := r.fs.cfg.Keeper.Take(ctx)
	if err != nil {
		r.fs.cfg.Logger.WarnContext(ctx, "mounts of the previous process that need a process are lost", "error", err)
	}
	for _, s := range held {
		if _, twice := r.held[s.Name]; twice {
			closeFD(s.FD)
			continue
		}
		r.held[s.Name] = s.FD
	}
}

// discard closes the connections that no mount uses.
func (r *restorer) discard(ctx context.Context) {
	for name, fd := range r.held {
		closeFD(fd)
		if err := r.fs.cfg.Keeper.Remove(ctx, name); err != nil {
			r.fs.cfg.Logger.WarnContext(ctx, "the keeper still has an unused connection", "session", name, "error", err)
		}
	}
	names, err := r.fs.records.list()
	if err != nil {
		r.fs.cfg.Logger.WarnContext(ctx, "records of connections are not cleaned up", "error", err)
	}
	for _, name := range names {
		if session, ok := sessionOf(name); ok && !r.inUse(session) {
			r.drop(ctx, name)
		}
	}
}

func (r *restorer) inUse(session string) bool {
	for _, m := range r.fs.Mounts() {
		if m.session == session {
			return true
		}
	}
	return false
}

// readSessions reads the records of connections. One that cannot be read is missed by
// the mounts that need it.
func (r *restorer) readSessions(ctx context.Context, names []string) {
	for _, name := range names {
		session, ok := sessionOf(name)
		if !ok {
			continue
		}
		var record sessionRecord
		content, err := r.fs.records.read(name)
		if err == nil {
			err = parseRecord(content, &record)
		}
		if err != nil {
			r.fs.cfg.Logger.ErrorContext(ctx, "record of a connection cannot be used", "record", name, "error", err)
			continue
		}
		r.sessions[session] = record
	}
}

// finish books what has become of a recorded mount.
func (r *restorer) finish(ctx context.Context, file string, m *revival, err error) {
	log := r.fs.cfg.Logger.With("record", file)
	result := resultAdopted
	switch {
	case err == nil:
		r.fs.mu.Lock()
		r.fs.mounts[m.Mount] = struct{}{}
		r.fs.mu.Unlock()
		log.InfoContext(ctx, "mount of the previous process is served again", "image", m.name, "target", m.target, "direct", m.direct())
	case errors.Is(err, errGone):
		result = resultGone
		log.InfoContext(ctx, "mount of the previous process ends", "reason", err)
	default:
		result = resultBroken
		log.ErrorContext(ctx, "mount of the previous process cannot be served again and ends", "error", err)
	}
	if r.fs.restored != nil {
		r.fs.restored.WithLabelValues(result).Inc()
	}
	if err == nil {
		r.keep(m)
		return
	}
	if m != nil {
		if err := m.undo.run(context.WithoutCancel(ctx), true); err != nil {
			log.WarnContext(ctx, "ending a mount", "error", err)
		}
	}
	r.drop(ctx, file)
}

func (r *restorer) drop(ctx context.Context, file string) {
	if err := r.fs.records.remove(file); err != nil {
		r.fs.cfg.Logger.WarnContext(ctx, "a record that is of no use stays", "error", err)
	}
}

// keep notes what must not be cleaned up.
func (r *restorer) keep(m *revival) {
	r.kept.points[m.record.Root] = true
	for _, point := range []string{m.record.Root, m.target} {
		if info, ok := r.find(point); ok {
			r.kept.devices[info.Device] = true
		}
	}
	if number, err := strconv.ParseUint(filepath.Base(m.record.Root), 10, 64); err == nil && m.record.overlaid() {
		r.fs.mu.Lock()
		r.fs.numbers = max(r.fs.numbers, number)
		r.fs.mu.Unlock()
	}
}

// revive prepares a recorded mount to be served again. It returns the mount with an
// error if something has to be undone.
func (r *restorer) revive(ctx context.Context, file string) (*revival, error) {
	m := &revival{file: file}
	content, err := r.fs.records.read(file)
	if err != nil {
		return nil, err
	}
	if err := parseRecord(content, &m.record); err != nil {
		return nil, err
	}
	if err := r.there(&m.record); err != nil {
		return nil, err
	}
	m.Mount = &Mount{
		fs: r.fs, name: m.record.Name, id: m.record.ID, target: m.record.Target, root: m.record.Root, backend: m.record.Backend,
		note: m.record.CallerData, session: m.record.Session, filled: make(chan struct{}),
		inherited: !m.record.overlaid(),
	}
	layers, err := r.reopen(ctx, m)
	if err != nil && (!m.record.direct() || errors.Is(err, errRecord)) {
		return nil, err
	}
	if err != nil {
		r.fs.cfg.Logger.WarnContext(ctx, "layers of a mount that needs no process are unknown", "image", m.name, "error", err)
	}
	return m, r.resume(ctx, m, layers)
}

// resume does for a mount what making it would have done, but for what is there.
func (r *restorer) resume(ctx context.Context, m *revival, layers []*index.Layer) error {
	// In the order in which mounts are made, for the sake of what undoes it.
	for _, l := range m.record.Layers {
		key := layerKey{l.Stream, m.record.PagesID}
		opened := mountedLayer{key: key, stream: m.openStream(key, l.Size), plain: l.Plain}
		if l.Plain != "" {
			m.repin(ctx, l.Stream)
		}
		m.layers = append(m.layers, opened)
	}
	if m.record.overlaid() {
		m.undoMountPoint(m.record.Root)
	}
	if m.backend == Tree {
		if err := r.serveTree(ctx, m, layers); err != nil {
			return err
		}
		m.undoRecord(m.file)
	} else {
		for _, l := range m.layers {
			if l.plain != "" {
				continue
			}
			if err := r.fs.flat.prepare(l); err != nil {
				return err
			}
			m.undoFlat(l)
			r.flat = m.session
		}
		m.undoRecord(m.file)
		m.undoMount(m.record.Root)
	}
	if m.record.overlaid() {
		m.undoMount(m.target)
	}
	return m.startFill(ctx, m.record.NoFill, m.record.Fill, r.start)
}

// repin takes the pin of a layer back. A mount whose layer the cache does not know any
// more goes on reading the file, which is all that can be done for it.
func (m *Mount) repin(ctx context.Context, layer block.Digest) {
	var release func()
	err := errors.New("the cache keeps no files")
	switch pinner := m.fs.cfg.Local.(type) {
	case Repinner:
		release, err = pinner.Repin(layer)
	case Pinner:
		_, release, err = pinner.Pin(layer)
	}
	if err != nil {
		m.fs.cfg.Logger.ErrorContext(ctx, "the file of a mounted layer is not pinned", "image", m.name, "error", err)
		return
	}
	m.undo.push(func(context.Context, bool) error {
		release()
		return nil
	})
}

// serveTree serves a tree again.
func (r *restorer) serveTree(ctx context.Context, m *revival, layers []*index.Layer) error {
	merged, err := erofs.Merge(layers)
	if err != nil {
		return fmt.Errorf("merging layers: %w", err)
	}
	fs, reads := m.tree(merged)
	m.server, err = fusefs.Resume(fs, reads, m.record.Root, r.descriptor(m.session), r.sessions[m.session].Settings, m.treeOptions())
	if err != nil {
		return err
	}
	m.undoTree()
	r.put(ctx, m.session, m.server)
	return nil
}

// serveFlat serves the files of layers again.
func (r *restorer) serveFlat(ctx context.Context, users []*revival) error {
	if len(users) == 0 {
		return nil
	}
	if err := r.fs.flat.resume(r.flat, r.descriptor(r.flat), r.sessions[r.flat].Settings); err != nil {
		return err
	}
	r.kept.points[r.fs.flat.dir] = true
	r.kept.devices[r.sessions[r.flat].Device] = true
	r.put(ctx, r.flat, r.fs.flat.server)
	return nil
}

// descriptor returns the descriptor of a connection, for its new owner.
func (r *restorer) descriptor(session string) int {
	fd := r.held[session]
	delete(r.held, session)
	return fd
}

// put tells the store that this process serves the connection.
func (r *restorer) put(ctx context.Context, session string, server *fusefs.Server) {
	if err := r.fs.sessions.put(ctx, session, server); err != nil {
		r.fs.cfg.Logger.WarnContext(ctx, "a mount would not survive this process", "session", session, "error", err)
	}
}

func closeFD(fd int) {
	_ = unix.Close(fd) //nolint:errcheck // a duplicate, through which nothing was written
}
