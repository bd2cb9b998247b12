//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/brisk-project/brisk/test/cluster"
)

const nodeConfig = `apiVersion: brisk.dev/v1alpha1
kind: NodeConfig
registry: {plainHTTP: ["` + cluster.Registry + `"]}
cache: {size: 2Gi}
`

// TestInstalledByHand installs the agent with its own command, on a node that has
// run pods without it.
func TestInstalledByHand(t *testing.T) {
	c := cluster.Start(t, cluster.Config{Nodes: 1})
	n := c.Nodes[0]
	plain := pushApp(t, c, appConfig{name: "plain:1", seed: 1, rest: 32 << 20, plain: true})
	before := run(t, c, plain.pod("before"))

	program, err := os.ReadFile(c.Program("cmd/brisk-node"))
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string][]byte{"opt/brisk-node": program, "etc/brisk/node.yaml": []byte(nodeConfig)} {
		if err := os.WriteFile(filepath.Join(n.Root, path), content, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Log(n.MustRun("/opt/brisk-node", "install"))
	n.AwaitReady(cluster.Timeout)

	lazy := pushApp(t, c, appConfig{name: "lazy:1", seed: 2, rest: 32 << 20})
	pod := run(t, c, lazy.pod("lazy"))
	pod.requireSums(t, lazy.startup)
	status := n.MustRun("/opt/brisk-node", "status")
	if !strings.Contains(status, "lazy") {
		t.Error("the image is not lazy")
	}
	t.Log(status)
	n.MustRun("systemctl", "restart", "brisk-node")
	pod.requireSums(t, lazy.rest)
	before.requireSums(t, plain.rest)
	remove(t, c, "lazy")
	t.Log(n.MustRun("/opt/brisk-node", "uninstall", "--drain", "--purge"))
	after := run(t, c, lazy.pod("after"))
	after.requireSums(t, lazy.startup)
}
