package lazyfs_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"testing"
)

// process is another process of a test.
type process struct {
	t       *testing.T
	cmd     *exec.Cmd
	orders  *json.Encoder
	answers *bufio.Scanner
	stdin   io.Closer
	First   answer // of a worker
}

// launch starts this program in a role, with more environment and descriptors.
func launch(t *testing.T, role string, s setup, env []string, files ...*os.File) *process {
	t.Helper()
	encoded, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t}
	// The shell makes the number known under which the program will run.
	p.cmd = exec.CommandContext(t.Context(), "/bin/sh", "-c", `exec env LISTEN_PID=$$ "$0"`, self)
	// The race detector would make each process end a second late.
	p.cmd.Env = append(append(os.Environ(), envRole+"="+role, envSetup+"="+string(encoded), "GORACE=atexit_sleep_ms=0"), env...)
	p.cmd.Stderr = testLog{t}
	p.cmd.ExtraFiles = files
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.stdin, p.orders, p.answers = stdin, json.NewEncoder(stdin), bufio.NewScanner(stdout)
	t.Cleanup(p.kill)
	if role == roleKeeper {
		waitFor(t, func() bool {
			_, err := os.Stat(s.socket())
			return err == nil
		})
		return p
	}
	p.First = p.listen()
	return p
}

// listen waits for an answer.
func (p *process) listen() answer {
	p.t.Helper()
	var a answer
	if !p.answers.Scan() {
		p.t.Fatalf("the worker says nothing: %v", p.answers.Err())
	}
	if err := json.Unmarshal(p.answers.Bytes(), &a); err != nil {
		p.t.Fatalf("the worker says %q", p.answers.Text())
	}
	return a
}

// tell gives a worker an order that must not fail.
func (p *process) tell(c command) answer {
	p.t.Helper()
	if err := p.orders.Encode(c); err != nil {
		p.t.Fatal(err)
	}
	a := p.listen()
	if a.Error != "" {
		p.t.Fatalf("%s %s: %s", c.Op, c.Target, a.Error)
	}
	return a
}

// kill ends the process in the hard way.
func (p *process) kill() {
	if p.cmd.ProcessState != nil {
		return
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Error(err)
	}
	_ = p.cmd.Wait() //nolint:errcheck // it was killed
}

// stop ends a worker in the gentle way.
func (p *process) stop() {
	p.t.Helper()
	if err := p.orders.Encode(command{Op: "stop"}); err != nil {
		p.t.Error(err)
	}
	if err := p.cmd.Wait(); err != nil {
		p.t.Errorf("the worker ended: %v", err)
	}
}
