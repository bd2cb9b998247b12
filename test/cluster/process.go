package cluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// process is a program of the control plane.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

// run starts a program of the control plane, which ends with the test.
func (c *Cluster) run(name string, args ...string) error {
	_, err := c.start(name, args...)
	return err
}

func (c *Cluster) start(name string, args ...string) (*process, error) {
	log, err := os.OpenFile(c.logPath(name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	defer log.Close() //nolint:errcheck // the program has it
	cmd := exec.CommandContext(context.WithoutCancel(c.tb.Context()), filepath.Join(c.programs, name), args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		_ = cmd.Wait() //nolint:errcheck // it is killed
	}()
	c.tb.Cleanup(func() {
		p.kill()
		if c.tb.Failed() {
			c.tb.Logf("%s:\n%s", name, tail(c.logPath(name)))
		}
	})
	return p, nil
}

// kill ends the program, as an accident would.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() //nolint:errcheck // it may have ended
	<-p.ended
}

func (c *Cluster) logPath(name string) string { return filepath.Join(c.dir, "log", name) }

// tailBytes is how much of a log is shown.
const tailBytes = 4096

// tail returns the end of a log.
func tail(path string) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(content[max(0, len(content)-tailBytes):])
}
