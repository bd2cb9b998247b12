package keeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// defaultTimeout bounds one request to a keeper.
	defaultTimeout = 5 * time.Second
	// pingInterval is how often a client looks whether its keeper is there.
	pingInterval = 2 * time.Second
)

// ClientConfig configures a [Client].
type ClientConfig struct {
	// Socket is the path of the keeper's socket.
	Socket string
	// Timeout bounds one request; zero means 5 s.
	Timeout time.Duration
	// Logger may be nil.
	Logger *slog.Logger
}

// Client is the [Store] that a [Keeper] offers. While it runs it notices when the keeper
// has died, and brings everything to the next one.
type Client struct {
	cfg ClientConfig

	mu   sync.Mutex // held during a request; guards the fields below
	conn *net.UnixConn
	held map[string]int // duplicates of the descriptors that the keeper should have
}

// NewClient returns a client, which has not talked to the keeper yet.
func NewClient(cfg ClientConfig) *Client {
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Client{cfg: cfg, held: make(map[string]int)}
}

// Put implements [Store].
func (c *Client) Put(ctx context.Context, name string, fd int) error {
	if err := checkName(name); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("handing %s to the keeper: %w", name, err)
	}
	if old, ok := c.held[name]; ok {
		closeFD(old)
	}
	c.held[name] = dup
	if _, err := c.ask(ctx, message{kind: kindPut, text: name}, dup); err != nil {
		return fmt.Errorf("handing %s to the keeper: %w", name, err)
	}
	return nil
}

// Remove implements [Store].
func (c *Client) Remove(ctx context.Context, name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if fd, ok := c.held[name]; ok {
		closeFD(fd)
		delete(c.held, name)
	}
	if _, err := c.ask(ctx, message{kind: kindRemove, text: name}, -1); err != nil {
		return fmt.Errorf("taking %s from the keeper: %w", name, err)
	}
	return nil
}

// Take implements [Store].
func (c *Client) Take(ctx context.Context) ([]Session, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	sessions, err := c.ask(ctx, message{kind: kindTake}, -1)
	if err != nil {
		return nil, fmt.Errorf("taking over from the keeper: %w", err)
	}
	return sessions, nil
}

// Run implements [Store]. When it ends the keeper knows that this process has gone.
func (c *Client) Run(ctx context.Context) error {
	ticker := time.NewTicker(pingInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			c.end()
			return nil
		case <-ticker.C:
			c.check(ctx)
		}
	}
}

// check looks whether the keeper is there, and brings everything to a new one if the one
// before has gone.
func (c *Client) check(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil && len(c.held) == 0 {
		return
	}
	_, err := c.ask(ctx, message{kind: kindPing}, -1)
	if err != nil && c.conn == nil && len(c.held) > 0 { // it may be a new one that answers
		_, err = c.ask(ctx, message{kind: kindPing}, -1)
	}
	if err != nil {
		c.cfg.Logger.WarnContext(ctx, "the keeper cannot be reached: mounts do not survive this process", "error", err)
	}
}

func (c *Client) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hangUp()
	for name, fd := range c.held {
		closeFD(fd)
		delete(c.held, name)
	}
}

func (c *Client) hangUp() {
	if c.conn != nil {
		_ = c.conn.Close() //nolint:errcheck // it holds nothing back
		c.conn = nil
	}
}

// ask sends a request and waits for the answer. It is called with mu held. After an
// error of the connection the next request makes a new one.
func (c *Client) ask(ctx context.Context, m message, fd int) ([]Session, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	if c.conn == nil {
		if err := c.connect(ctx); err != nil {
			c.hangUp()
			return nil, err
		}
	}
	return c.exchange(ctx, m, fd)
}

// connect connects to the keeper, which may be another one than before: so it is given
// everything that it should have.
func (c *Client) connect(ctx context.Context) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unixpacket", c.cfg.Socket)
	if err != nil {
		return err
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return errors.Join(errors.New("the connection is not that of a socket"), conn.Close())
	}
	c.conn = unixConn
	for name, fd := range c.held {
		if _, err := c.exchange(ctx, message{kind: kindPut, text: name}, fd); err != nil && c.conn == nil {
			return err
		} else if err != nil {
			c.cfg.Logger.WarnContext(ctx, "the keeper rejects a connection", "session", name, "error", err)
		}
	}
	return nil
}

// exchange sends a request over the connection there is.
func (c *Client) exchange(ctx context.Context, m message, fd int) ([]Session, error) {
	conn := c.conn
	stop := context.AfterFunc(ctx, func() {
		_ = conn.SetDeadline(time.Unix(1, 0)) //nolint:errcheck // a connection that is closed needs none
	})
	defer stop()
	if err := send(conn, m, fd); err != nil {
		c.hangUp()
		return nil, err
	}
	sessions, failure, err := answers(conn)
	if err != nil {
		c.hangUp()
	} else if !stop() {
		c.hangUp() // its deadline may have passed in this very moment
	}
	if err = errors.Join(err, failure); err != nil {
		for _, s := range sessions {
			closeFD(s.FD)
		}
		return nil, err
	}
	return sessions, nil
}

// answers receives what is answered to a request. The failure is that of the request, the
// error that of the connection.
func answers(conn *net.UnixConn) (sessions []Session, failure, err error) {
	for {
		m, fd, err := receive(conn)
		if err != nil {
			return sessions, nil, err
		}
		switch {
		case m.kind == kindSession && fd >= 0:
			sessions = append(sessions, Session{Name: m.text, FD: fd})
			continue
		case fd >= 0:
			closeFD(fd)
		}
		switch m.kind {
		case kindDone:
			return sessions, nil, nil
		case kindFailed:
			return sessions, errors.New(m.text), nil
		default:
			return sessions, nil, fmt.Errorf("%w: kind %d is no answer", errMessage, m.kind)
		}
	}
}
