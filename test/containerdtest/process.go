package containerdtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/brisk-project/brisk/test/programs"
)

// Program returns the path of one of the programs: containerd, ctr or runc.
func Program(tb testing.TB, name string) string {
	tb.Helper()
	return filepath.Join(Programs(tb), name)
}

// ConfigPath returns the path of the configuration file.
func (d *Daemon) ConfigPath() string { return filepath.Join(d.dir, "config.toml") }

// Restart ends containerd and starts it again. Containers go on.
func (d *Daemon) Restart(ctx context.Context) error {
	d.end(ctx)
	return d.launch()
}

// launch starts the process.
func (d *Daemon) launch() error {
	log, err := os.OpenFile(filepath.Join(d.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("starting containerd: %w", err)
	}
	defer log.Close() //nolint:errcheck // containerd has it
	cmd := exec.CommandContext(context.WithoutCancel(d.tb.Context()), d.program, "--config", d.ConfigPath())
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(d.program)+":"+d.bin+":"+os.Getenv("PATH"))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	wait, err := programs.Start(cmd)
	if err != nil {
		return fmt.Errorf("starting containerd: %w", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = wait() //nolint:errcheck // it is told to end
	}()
	d.cmd, d.done = cmd, done
	return nil
}

// end ends the process.
func (d *Daemon) end(ctx context.Context) {
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		d.tb.Errorf("ending containerd: %v", err)
	}
	select {
	case <-d.done:
	case <-ctx.Done():
		d.tb.Errorf("containerd does not end\n%s", d.Log())
		_ = d.cmd.Process.Kill() //nolint:errcheck // it may have ended
		<-d.done
	}
}
