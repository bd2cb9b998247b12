package fusefs_test

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/fusefs"
)

func TestErrno(t *testing.T) {
	t.Parallel()
	tests := []struct {
		err  error
		want fuse.Status
	}{
		{nil, fuse.OK},
		{block.ErrCorrupt, fuse.EIO},
		{block.ErrNotFound, fuse.EIO},
		{block.ErrUnavailable, fuse.EIO},
		{context.Canceled, fuse.EIO}, // EINTR would make readers try for ever
		{errors.New("anything else"), fuse.EIO},
		{fmt.Errorf("reading: %w", fusefs.ErrKilled), fuse.EINTR},
		{fmt.Errorf("reading: %w", syscall.ENOMEM), fuse.Status(syscall.ENOMEM)},
	}
	for _, tt := range tests {
		if got := fusefs.Errno(tt.err); got != tt.want {
			t.Errorf("%v: %v, want %v", tt.err, got, tt.want)
		}
	}
}
