package localregistry

import (
	"net"
)

// countingListener counts, and limits if asked, what its connections send
// together.
type countingListener struct {
	net.Listener
	server *Server
}

// Accept implements net.Listener.
func (l *countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &countingConn{Conn: conn, server: l.server}, nil
}

// countingConn hides the ReadFrom of TCP connections: sendfile would bypass
// Write.
type countingConn struct {
	net.Conn
	server *Server
}

// NetConn returns the connection that is counted, as that of crypto/tls does.
func (c *countingConn) NetConn() net.Conn { return c.Conn }

// Write implements net.Conn.
func (c *countingConn) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		chunk := p
		if limiter := c.server.limiter; limiter != nil {
			chunk = p[:min(len(p), limiterBurst)]
			if err := limiter.WaitN(c.server.ctx, len(chunk)); err != nil {
				return written, err
			}
		}
		n, err := c.Conn.Write(chunk)
		written += n
		c.server.sent.Add(int64(n))
		if err != nil {
			return written, err
		}
		p = p[n:]
	}
	return written, nil
}
