package main

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/p2p"
	"github.com/brisk-project/brisk/test/containerdtest"
	"github.com/brisk-project/brisk/test/registrytest"
)

// TestNoProxy has a socket for kubelet that cannot be made: nothing else notices.
func TestNoProxy(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "cri.sock")
	if err := os.Mkdir(socket, 0o700); err != nil {
		t.Fatal(err)
	}
	s := newSiteWith(t, containerdtest.Config{}, "--cri-socket", socket, "--cache-min-free", "1Mi")
	data, path, sum := files(t, 1, 1<<10)
	s.requireSum("one", s.Pull(s.push("app:v1", true, shell(t), data)), path, sum)
	if reasons := s.status().NotReady; len(reasons) > 0 {
		t.Errorf("not ready: %q", reasons)
	}
	if len(s.logs.lines("kubelet is not served", "not a socket")) != 1 {
		t.Error("the log does not say it once")
	}
	if err := os.Remove(socket); err != nil {
		t.Fatal(err)
	}
	if err := s.pullAs(socket, s.push("app:v2", true, shell(t)), "unused"); err != nil {
		t.Error(err)
	}
}

// remembers reports whether the memory of the program holds a text.
func (s *site) remembers(text string) bool {
	s.t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", s.pid))
	if err != nil {
		s.t.Fatal(err)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", s.pid))
	if err != nil {
		s.t.Fatal(err)
	}
	defer mem.Close() //nolint:errcheck // read only
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		var mode string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); err != nil || !strings.HasPrefix(mode, "rw") {
			continue
		}
		const step = 4 << 20
		buf := make([]byte, step+len(text))
		for ; from < to; from += step {
			n, err := mem.ReadAt(buf[:min(int64(len(buf)), to-from)], from)
			if bytes.Contains(buf[:n], []byte(text)) {
				return true
			}
			if err != nil {
				break
			}
		}
	}
	return false
}

// TestPeersLearnNothing has a node give blocks to another one: in the memory of that one
// there is nothing of its credential.
func TestPeersLearnNothing(t *testing.T) {
	reg := private(t, registrytest.Config{})
	users := map[string]string{registrytest.User: hidden, registrytest.Pusher: registrytest.Password}
	var nodes []*site
	var flags [][]string
	var members []string
	for _, user := range []string{registrytest.User, registrytest.Pusher} {
		s := &site{t: t, dir: filepath.Join(t.TempDir(), "node"), reg: reg, logs: &logs{}}
		auth := base64.StdEncoding.EncodeToString([]byte(user + ":" + users[user]))
		config := filepath.Join(s.dir, "docker.json")
		if err := os.MkdirAll(s.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(config, fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, reg.Addr(), auth), 0o600); err != nil {
			t.Fatal(err)
		}
		key, err := p2p.LoadOrCreateKey(filepath.Join(s.dir, node.PeerKeyFile))
		if err != nil {
			t.Fatal(err)
		}
		id, err := p2p.ID(key)
		if err != nil {
			t.Fatal(err)
		}
		host, port, _ := strings.Cut(freeAddress(t), ":")
		listen := fmt.Sprintf("/ip4/%s/tcp/%s", host, port)
		nodes, members = append(nodes, s), append(members, id+"@"+listen)
		flags = append(flags, []string{"--docker-config", config, "--listen", listen})
	}
	data, path, sum := files(t, 1, 4<<20)
	ref := nodes[0].push("app:v1", true, shell(t), data)
	for i, s := range nodes {
		s.start(containerdtest.Config{}, append(flags[i], "--peer", members[1-i])...)
	}
	for _, s := range nodes {
		if err := s.pullAs(s.Address, ref, hidden); err != nil { // containerd is another process
			t.Fatal(err)
		}
		s.requireLazy("one", ref, path, sum)
	}
	if got := nodes[1].status().Bytes.Peers; got < 1<<20 {
		t.Errorf("%d bytes came from the peer", got)
	}
	if !nodes[0].remembers(hidden) {
		t.Error("the one who uses the password has not got it in its memory: the test is not able to find it")
	}
	if nodes[1].remembers(hidden) {
		t.Error("the peer has learned the password")
	}
}
