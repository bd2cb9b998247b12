package keeper

import "context"

// Session is a FUSE connection that a worker before this one has served.
type Session struct {
	// Name is what it was put under.
	Name string
	// FD is a descriptor of the connection, closed on exec, which the receiver owns.
	FD int
}

// Store keeps descriptors of FUSE connections for the next worker. It is safe for
// concurrent use. Names have 1 to [MaxName] bytes out of a-z, 0-9, "-" and ".".
type Store interface {
	// Put keeps a duplicate of fd under a name, in place of one that had the name
	// before, and says that this process serves the connection. After an error it
	// is tried again while Run runs, if that makes sense.
	Put(ctx context.Context, name string, fd int) error
	// Remove closes a connection. A name that is not known is no error.
	Remove(ctx context.Context, name string) error
	// Take returns what workers before this one have put. It is called once, before
	// anything is put.
	Take(ctx context.Context) ([]Session, error)
	// Run does what the store needs to have done until ctx ends.
	Run(ctx context.Context) error
}
