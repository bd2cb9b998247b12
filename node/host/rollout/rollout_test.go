package rollout_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/brisk-project/brisk/node/host/rollout"
	"github.com/brisk-project/brisk/test/require"
)

// machine is a process with mounts of its own, below which the machine's root is.
func machine(t *testing.T) rollout.Machine {
	t.Helper()
	require.Root(t)
	cmd := exec.CommandContext(t.Context(), "sh", "-c",
		`mount --make-rprivate / && mount -t tmpfs opt /opt && mount -t tmpfs run /run && echo ready && exec sleep 1000`)
	// Not to end with the thread that starts it, since threads end here.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() //nolint:errcheck // the end of the test
		_ = cmd.Wait()         //nolint:errcheck // it was killed
	})
	if _, err := out.Read(make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	return rollout.Machine{PID: cmd.Process.Pid}
}

func TestMachine(t *testing.T) {
	m := machine(t)
	for i, want := range []bool{true, false} {
		changed, err := m.Write("/opt/brisk/hello", []byte("#!/bin/sh\necho \"hello $1\"; ls /opt/brisk\n"), 0o755)
		if err != nil || changed != want {
			t.Errorf("writing, %d: %v, %v", i, changed, err)
		}
	}
	if _, err := os.Stat("/opt/brisk/hello"); err == nil {
		t.Error("the file is here, and not on the machine")
	}
	var out bytes.Buffer
	if err := m.Run(t.Context(), &out, "/opt/brisk/hello", "you"); err != nil || out.String() != "hello you\nhello\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
	if err := m.Run(t.Context(), &out, "/opt/brisk/nothing"); err == nil {
		t.Error("a program that is not there was run")
	}
	if err := exec.CommandContext(t.Context(), "ls", "/opt/brisk").Run(); err == nil {
		t.Error("this process has the mounts of the machine")
	}
	if err := (rollout.Machine{PID: 1 << 30}).Run(t.Context(), &out, "/bin/true"); err == nil {
		t.Error("a program was run on no machine")
	}
}

// log collects what is written.
type log struct {
	mu  sync.Mutex
	buf strings.Builder
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// site is a pod on a machine.
type site struct {
	rollout.Machine
	t   *testing.T
	dir string
	cfg rollout.Config
	out *log
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{Machine: machine(t), t: t, dir: t.TempDir(), out: &log{}}
	s.write("program", "#!/bin/sh\necho program $@\n")
	s.write("node.yaml", "apiVersion: brisk.dev/v1alpha1\nkind: NodeConfig\n")
	s.write("token", "one")
	s.write("ca.crt", "certificate")
	s.cfg = rollout.Config{
		Machine: s.Machine, Program: filepath.Join(s.dir, "program"), Directory: "/opt/brisk/bin", Settings: filepath.Join(s.dir, "node.yaml"),
		Credentials: s.dir, Server: "https://192.0.2.1:443", Node: "n1", Address: "192.0.2.7", Interval: 10 * time.Millisecond, Out: s.out,
		SettingsPath: "/opt/brisk/node.yaml", UnitPath: "/opt/brisk/unit",
	}
	return s
}

func (s *site) write(name, content string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(content), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) requireHolds(path string, want ...string) {
	s.t.Helper()
	content, err := s.Read(path)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, text := range want {
		if !strings.Contains(string(content), text) {
			s.t.Errorf("nothing of %q in %s:\n%s", text, path, content)
		}
	}
}

// run runs a rollout until a condition holds.
func (s *site) run(until func() bool) error {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- rollout.New(s.cfg).Run(ctx) }()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			return err
		case <-tick.C:
			if until() {
				cancel()
				return <-ended
			}
		}
	}
}

func TestRollout(t *testing.T) {
	s := newSite(t)
	if err := s.run(func() bool { return strings.Contains(s.out.String(), "program install") }); err != nil {
		t.Fatal(err)
	}
	s.requireHolds("/opt/brisk/bin/brisk-node", "echo program")
	s.requireHolds("/opt/brisk/node.yaml", "NodeConfig", "enabled: true", "node: n1", "address: 192.0.2.7", "kubeconfig: /run/brisk/kubernetes/kubeconfig")
	s.requireHolds("/run/brisk/kubernetes/kubeconfig", "https://192.0.2.1:443", "tokenFile: /run/brisk/kubernetes/token")
	s.requireHolds("/run/brisk/kubernetes/token", "one")
	s.write("token", "two")
	if err := s.run(func() bool {
		content, err := s.Read("/run/brisk/kubernetes/token")
		return err == nil && string(content) == "two"
	}); err != nil {
		t.Fatal(err)
	}
}

// TestNewProgramFails checks that the program of before comes back.
func TestNewProgramFails(t *testing.T) {
	s := newSite(t)
	if err := s.run(func() bool { return strings.Contains(s.out.String(), "program install") }); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write("/opt/brisk/unit", []byte("[Service]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.write("program", "#!/bin/sh\necho broken\n")
	s.cfg.Restart = []string{"/bin/sh", "-c", "! grep broken /opt/brisk/bin/brisk-node"}
	err := s.run(func() bool { return false })
	if err == nil || !strings.Contains(err.Error(), "as before") {
		t.Errorf("%v", err)
	}
	s.requireHolds("/opt/brisk/bin/brisk-node", "echo program")
	s.write("program", "#!/bin/sh\necho better $@\n")
	if err := s.run(func() bool { return strings.Contains(s.out.String(), "better install") }); err != nil {
		t.Fatal(err)
	}
}

func TestServer(t *testing.T) {
	env := map[string]string{"KUBERNETES_SERVICE_HOST": "2001:db8::1", "KUBERNETES_SERVICE_PORT": "443"}
	if got, err := rollout.Server(func(name string) string { return env[name] }); err != nil || got != "https://[2001:db8::1]:443" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := rollout.Server(func(string) string { return "" }); err == nil {
		t.Error("no error outside of a pod")
	}
}
