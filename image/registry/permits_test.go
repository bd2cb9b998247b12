package registry

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/brisk-project/brisk/internal/block"
)

// Reads find a permit while fills wait, and waiters go in the order of class,
// then of arrival.
func TestPermits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPermits(4)
		for range 3 {
			if err := p.acquire(t.Context(), block.ClassFill); err != nil {
				t.Fatal(err)
			}
		}
		granted := make(chan string, 8)
		ask := func(name string, class block.Class) {
			go func() {
				if err := p.acquire(t.Context(), class); err != nil {
					t.Error(err)
				}
				granted <- name
			}()
			synctest.Wait()
		}
		ask("fill 1", block.ClassFill)
		ask("fill 2", block.ClassFill)
		ask("tail", block.ClassTail)
		ask("read 1", block.ClassRead)
		ask("read 2", block.ClassRead)
		ctx, cancel := context.WithCancelCause(t.Context())
		left := make(chan error)
		go func() { left <- p.acquire(ctx, block.ClassRead) }()
		synctest.Wait()
		cause := errors.New("gone")
		cancel(cause)
		if err := <-left; !errors.Is(err, cause) {
			t.Errorf("a waiter that left: %v", err)
		}
		var order []string
		for i := range 5 {
			if i == 2 {
				p.release() // of the fills that have had theirs from the start
				synctest.Wait()
			}
			order = append(order, <-granted)
			p.release()
			synctest.Wait()
		}
		want := []string{"read 1", "read 2", "tail", "fill 1", "fill 2"}
		if diff := cmp.Diff(want, order); diff != "" {
			t.Error(diff)
		}
		if err := p.acquire(ctx, block.ClassRead); !errors.Is(err, cause) {
			t.Errorf("asking after the end: %v", err)
		}
	})
}
