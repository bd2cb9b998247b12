package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/p2p"
)

// lazy starts the image on one node after the other. Every node stays, so that
// the next ones find its blocks.
func (d *demo) lazy(ctx context.Context) (err error) {
	members, err := d.members(ctx)
	if err != nil {
		return err
	}
	var running []*process
	defer func() {
		for _, p := range running {
			err = errors.Join(err, p.stop())
		}
	}()
	for i := range members {
		what := fmt.Sprintf("lazy, node %d", i+1)
		d.say("%s", what)
		p, err := d.lazyNode(ctx, i, members, what)
		if p != nil {
			running = append(running, p)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	return nil
}

func (d *demo) lazyNode(ctx context.Context, i int, members []member, what string) (*process, error) {
	flags := append([]string{"--listen", members[i].listen}, d.cfg.NodeFlags...)
	for j, other := range members {
		if j != i {
			flags = append(flags, "--peer", other.peer)
		}
	}
	var p *process
	err := d.measure(ctx, what, func() (root string, err error) {
		p, err = startNode(ctx, members[i].dir, d.ref.String(), flags, d.cfg.Programs)
		if err != nil {
			return "", err
		}
		return p.root, nil
	})
	if err != nil {
		return p, err
	}
	status, err := p.status(ctx)
	if err != nil {
		return p, err
	}
	run := &d.report.Runs[len(d.report.Runs)-1]
	run.PeerBytes = status.Bytes.Peers
	return p, nil
}

// member is a node of the demo before it runs.
type member struct {
	dir    string
	listen string // multiaddr
	peer   string // how others name it
}

// members gives every node a directory, an identity and a free port, so that all
// know each other from the start.
func (d *demo) members(ctx context.Context) ([]member, error) {
	list := make([]member, d.cfg.Nodes)
	for i := range list {
		dir := d.path("node" + strconv.Itoa(i+1))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("making directory of node: %w", err)
		}
		key, err := p2p.LoadOrCreateKey(filepath.Join(dir, node.PeerKeyFile))
		if err != nil {
			return nil, err
		}
		id, err := p2p.ID(key)
		if err != nil {
			return nil, err
		}
		port, err := freePort(ctx)
		if err != nil {
			return nil, err
		}
		listen := "/ip4/127.0.0.1/tcp/" + strconv.Itoa(port)
		list[i] = member{dir: dir, listen: listen, peer: id + "@" + listen}
	}
	return list, nil
}

func freePort(ctx context.Context) (int, error) {
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("finding a free port: %w", err)
	}
	address, ok := listener.Addr().(*net.TCPAddr)
	if !ok {
		return 0, errors.Join(errors.New("finding a free port: no TCP address"), listener.Close())
	}
	return address.Port, listener.Close()
}
