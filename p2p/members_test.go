package p2p_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/brisk-project/brisk/p2p"
	"github.com/brisk-project/brisk/p2p/p2ptest"
)

func testID(t *testing.T) string {
	t.Helper()
	id, err := p2p.ID(p2ptest.Key(1))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestParsePeer(t *testing.T) {
	id := testID(t)
	for _, s := range []string{
		id + "@/ip4/10.0.0.7/tcp/4077",
		id + "@/ip6/fd00::7/tcp/4077",
		id + "@/dns4/node-7.example/tcp/1,/ip4/10.0.0.7/tcp/2",
	} {
		p, err := p2p.ParsePeer(" " + s + "\n")
		if err != nil {
			t.Errorf("%s: %v", s, err)
		}
		if p.String() != s || p.ID() != id {
			t.Errorf("%s was read as %s", s, p)
		}
	}
}

func TestParsePeerRefuses(t *testing.T) {
	id := testID(t)
	for s, want := range map[string]string{
		"":                                      "no @",
		id:                                      "no @",
		"nobody@/ip4/10.0.0.7/tcp/1":            "is not a peer ID",
		id + "@":                                "address",
		id + "@10.0.0.7:4077":                   "want the form /ip4/10.0.0.7/tcp/4077",
		id + "@/ip4/10.0.0.7":                   "not an address and a TCP port",
		id + "@/ip4/10.0.0.7/udp/1/quic-v1":     "not an address and a TCP port",
		id + "@/ip4/10.0.0.7/tcp/99999":         "99999",
		id + "@/ip4/10.0.0.7/tcp/1,/unix/a":     "not an address and a TCP port",
		id + "@/ip4/10.0.0.7/tcp/1/p2p-circuit": "not an address and a TCP port",
	} {
		if _, err := p2p.ParsePeer(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want an error with %q", s, err, want)
		}
	}
}

func TestParsePeersJoins(t *testing.T) {
	id := testID(t)
	peers, err := p2p.ParsePeers([]string{id + "@/ip4/10.0.0.7/tcp/1", id + "@/ip4/10.0.0.8/tcp/2"})
	if err != nil || len(peers) != 1 || peers[0].String() != id+"@/ip4/10.0.0.7/tcp/1,/ip4/10.0.0.8/tcp/2" {
		t.Errorf("%v, %v", peers, err)
	}
	if _, err := p2p.ParsePeers([]string{"x"}); err == nil {
		t.Error("a bad peer is accepted")
	}
}

func FuzzParsePeer(f *testing.F) {
	f.Add("12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5@/ip4/10.0.0.7/tcp/4077")
	f.Add("@,")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := p2p.ParsePeer(s)
		if err != nil {
			return
		}
		again, err := p2p.ParsePeer(p.String())
		if err != nil || again.String() != p.String() {
			t.Errorf("%q was read as %q, and that as %q, %v", s, p, again, err)
		}
	})
}

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.key")
	ids := make([]string, 8)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			key, err := p2p.LoadOrCreateKey(path)
			if err != nil {
				t.Error(err)
				return
			}
			if ids[i], err = p2p.ID(key); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Errorf("processes that start at once have different keys: %v", ids)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v; want mode 0600", info.Mode(), err)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("%d files beside the key, %v", len(left)-1, err)
	}
}

func TestKeyFileRefused(t *testing.T) {
	dir := t.TempDir()
	for _, tc := range []struct {
		name, content string
		mode          os.FileMode
		want          string
	}{
		{"readable by others", "", 0o644, "0600"},
		{"not PEM", "secret", 0o600, "no PEM block"},
		{"not a key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", 0o600, "asn1"},
		{"too long", strings.Repeat("x", 5000), 0o600, "not a key file"},
	} {
		path := filepath.Join(dir, tc.name)
		if err := os.WriteFile(path, []byte(tc.content), tc.mode); err != nil {
			t.Fatal(err)
		}
		_, err := p2p.LoadOrCreateKey(path)
		if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want an error with %q and the path", tc.name, err, tc.want)
		}
	}
	if _, err := p2p.LoadOrCreateKey(filepath.Join(dir, "absent", "key")); err == nil {
		t.Error("a directory that does not exist is no error")
	}
}

func TestList(t *testing.T) {
	peers, err := p2p.ParsePeers([]string{testID(t) + "@/ip4/10.0.0.7/tcp/1"})
	if err != nil {
		t.Fatal(err)
	}
	var list p2p.List
	changed := list.Changed()
	select {
	case <-changed:
		t.Fatal("changed before it changed")
	default:
	}
	list.Set(peers)
	<-changed
	if diff := cmp.Diff([]string{peers[0].String()}, []string{list.Members()[0].String()}); diff != "" {
		t.Error(diff)
	}
}
