package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/brisk-project/brisk/node"
)

// stopTimeout is how long a node may take to unmount and end.
const stopTimeout = 20 * time.Second

// process is one node: this very program, running its mount command.
type process struct {
	cmd    *exec.Cmd
	dir    string
	root   string
	stdout io.ReadCloser
}

// startNode starts a node that mounts image and waits until it has.
func startNode(ctx context.Context, dir, image string, flags []string, stderr io.Writer) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("starting node: finding this program: %w", err)
	}
	p := &process{dir: dir, root: filepath.Join(dir, "root")}
	if err := os.MkdirAll(p.root, 0o750); err != nil {
		return nil, fmt.Errorf("starting node: %w", err)
	}
	args := append([]string{"mount", "--overlay", "--dir", dir}, flags...)
	p.cmd = exec.CommandContext(ctx, self, append(args, image, p.root)...)
	p.cmd.Stderr = stderr
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	p.cmd.WaitDelay = stopTimeout
	if p.stdout, err = p.cmd.StdoutPipe(); err != nil {
		return nil, fmt.Errorf("starting node: %w", err)
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting node: %w", err)
	}
	// The mount command prints one line when the image is mounted.
	if _, err := bufio.NewReader(p.stdout).ReadString('\n'); err != nil {
		return nil, errors.Join(fmt.Errorf("node did not mount %s (its messages are above)", image), p.stop())
	}
	return p, nil
}

func (p *process) status(ctx context.Context) (node.Status, error) {
	return node.Client{Dir: p.dir}.Status(ctx)
}

// stop ends the node, which unmounts, and waits for it.
func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stopping node: %w", err)
	}
	timer := time.AfterFunc(stopTimeout, func() {
		if err := p.cmd.Process.Kill(); err != nil {
			return // it has ended meanwhile
		}
	})
	defer timer.Stop()
	if err := p.cmd.Wait(); err != nil {
		return fmt.Errorf("stopping node: %w", err)
	}
	return nil
}
