package lazyfs

import (
	"context"
	"errors"
	"log/slog"

	"github.com/brisk-project/brisk/lazyfs/fusefs"
	"github.com/brisk-project/brisk/lazyfs/keeper"
	"github.com/brisk-project/brisk/lazyfs/kernel"
)

// errNotKept says that a FUSE connection ends with this process.
var errNotKept = errors.New("this kernel cannot hand out unanswered requests again")

// sessions gives FUSE connections to the store, and notes what the next process has to
// know of them.
type sessions struct {
	store   keeper.Store // nil if there is none
	records *records
	logger  *slog.Logger
}

// begin records a connection and gives it to the store. A mount works without being
// kept, so what fails is only logged. It returns the name of the session.
func (s *sessions) begin(ctx context.Context, server *fusefs.Server, dir string) string {
	name := uniqueName("brisk-")
	if s.store == nil {
		return name
	}
	device, err := kernel.Device(dir)
	if err == nil {
		err = s.records.save(name+sessionSuffix, &sessionRecord{
			envelope: s.records.envelope(), Dir: dir, Device: device, Settings: server.Settings(),
		})
	}
	if err == nil {
		err = s.put(ctx, name, server)
	}
	if err != nil {
		s.logger.WarnContext(ctx, "a mount would not survive this process", "dir", dir, "error", err)
	}
	return name
}

// put gives a connection to the store, perhaps once more.
func (s *sessions) put(ctx context.Context, name string, server *fusefs.Server) error {
	if !server.Settings().Resumable() {
		return errNotKept
	}
	return s.store.Put(ctx, name, server.FD())
}

// end lets go of a connection that has been unmounted.
func (s *sessions) end(ctx context.Context, name string) error {
	if s.store == nil {
		return nil
	}
	if err := s.store.Remove(ctx, name); err != nil {
		s.logger.WarnContext(ctx, "the keeper still has a connection that has ended", "session", name, "error", err)
	}
	return s.records.remove(name + sessionSuffix)
}

// keeps reports whether a connection will survive this process.
func (s *sessions) keeps(ctx context.Context, name string, server *fusefs.Server) bool {
	if s.store == nil || server == nil {
		return false
	}
	if err := s.put(ctx, name, server); err != nil {
		s.logger.WarnContext(ctx, "a mount does not survive this process", "session", name, "error", err)
		return false
	}
	return true
}
