package nodeblocks_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/brisk-project/brisk/api/v1alpha1"
	"github.com/brisk-project/brisk/test/controlplane"
	"github.com/brisk-project/brisk/test/require"
)

// agentProcess is a brisk-node that runs.
type agentProcess struct {
	cmd     *exec.Cmd
	log     lockedBuffer
	metrics string // address
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// startAgent starts an agent of a node, as a pod on it would be.
func (c *cluster) startAgent(t *testing.T, program, name string) *agentProcess {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &agentProcess{metrics: listener.Addr().String()}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	p.cmd = exec.CommandContext(context.WithoutCancel(t.Context()), program, "run", "--dir", filepath.Join(dir, "brisk"), "--socket", filepath.Join(dir, "s.sock"),
		"--containerd", filepath.Join(dir, "none.sock"), "--http", p.metrics, "--listen", "/ip4/127.0.0.1/tcp/0", "--cache-min-free", "0",
		"--kubernetes", "--kubeconfig", controlplane.Kubeconfig(t, c.Admin))
	p.cmd.Env = append(os.Environ(), "NODE_NAME="+name, "NODE_IP=127.0.0.1")
	p.cmd.Stderr = &p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			p.end(t)
		}
		if t.Failed() {
			t.Log(p.log.String())
		}
	})
	return p
}

func (p *agentProcess) end(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("the agent ended: %v", err)
	}
}

// peers returns with how many peers an agent is connected.
func (p *agentProcess) peers(t *testing.T) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+p.metrics+"/metrics", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "" // not yet
	}
	var content bytes.Buffer
	_, err = content.ReadFrom(response.Body)
	if err != nil || response.Body.Close() != nil {
		return ""
	}
	for line := range strings.Lines(content.String()) {
		if value, ok := strings.CutPrefix(line, `brisk_p2p_peers{state="connected"} `); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// testAgent runs two real agents, which find each other through the cluster. There is no
// containerd, and they say so.
func (c *cluster) testAgent(t *testing.T) {
	require.Root(t)
	require.FUSE(t)
	program := filepath.Join(t.TempDir(), "brisk-node")
	built := exec.CommandContext(t.Context(), require.Tool(t, "go"), "build", "-o", program,
		"github.com/brisk-project/brisk/cmd/brisk-node")
	if out, err := built.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	names := []string{"agent-1", "agent-2"}
	agents := make([]*agentProcess, len(names))
	for i, name := range names {
		c.node(t, name, map[string]string{"topology.kubernetes.io/zone": "agents"})
		agents[i] = c.startAgent(t, program, name)
	}
	for _, name := range names {
		await(t, "the report of "+name, func() bool {
			o := c.stored(t, name)
			return o != nil && o.Status.Peer != nil && o.Status.Backend != ""
		})
		status := c.stored(t, name).Status
		if status.Healthy || !strings.Contains(status.Message, "containerd: ") || status.Cache.CapacityBytes != 20<<30 ||
			status.Cache.Summary != "0.0 of 20.0 GiB" || status.Zone != "agents" {
			t.Errorf("%s: %+v", name, status)
		}
		if id, address, _ := strings.Cut(c.stored(t, name).Annotations[v1alpha1.AnnotationPeer], "@"); id != status.Peer.ID || address != status.Peer.Addresses[0] {
			t.Errorf("%s: the peer is %+v and %s@%s", name, status.Peer, id, address)
		}
	}
	for _, a := range agents {
		await(t, "the other peer", func() bool { return a.peers(t) == "1" })
	}
	for i, a := range agents {
		t.Log(names[i], residentMemory(t, a.cmd.Process.Pid))
	}
	began := time.Now()
	agents[0].end(t)
	t.Logf("the agent ended within %s", time.Since(began).Round(time.Millisecond))
	if o := c.stored(t, names[0]); o.Status.Healthy || o.Status.Message != "the agent has ended" || o.Status.Peer != nil {
		t.Errorf("after the end: %+v", o.Status)
	}
}

func residentMemory(t *testing.T, pid int) string {
	t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(content)) {
		if strings.HasPrefix(line, "VmRSS") {
			return strings.Join(strings.Fields(line), " ")
		}
	}
	return ""
}
