package registry

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// spool goes over to keeping the blob in a file, because the registry takes no chunks.
func (s *sender) spool(ctx context.Context, chunk []byte, why error) error {
	s.session.client.log.InfoContext(ctx, "keeping a blob in a file until its end", "repository", s.session.repo.String(), "reason", why)
	s.abort(ctx)
	file, err := os.CreateTemp(s.scratch, "brisk-blob-*")
	if err != nil {
		return fmt.Errorf("keeping a blob in a file: %w", err)
	}
	s.file = file
	// Without a name it cannot be left behind.
	if err := os.Remove(file.Name()); err != nil {
		return fmt.Errorf("keeping a blob in a file: %w", err)
	}
	return s.keep(chunk)
}

func (s *sender) keep(chunk []byte) error {
	n, err := s.file.Write(chunk)
	s.kept += int64(n)
	if err != nil {
		return fmt.Errorf("keeping a blob in a file: %w", err)
	}
	return nil
}

func (s *sender) close() error {
	if s.file == nil {
		return nil
	}
	file := s.file
	s.file = nil
	if err := file.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("closing the file of a blob: %w", err)
	}
	return nil
}
