package cluster

import (
	"context"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/brisk-project/brisk/test/containerdtest"
	"github.com/brisk-project/brisk/test/require"
)

// Where things are. The network is that of the cluster alone.
const (
	hostIP       = "10.77.0.1"
	serviceIP    = "10.96.0.1" // of the API server, for pods
	serviceRange = "10.96.0.0/24"
	apiAddress   = hostIP + ":443" // the port that the address for pods has, so that nothing is translated
	etcdAddress  = "http://" + hostIP + ":2379"

	// Registry is where the registry of a cluster is. It speaks HTTP without TLS.
	Registry = hostIP + ":5000"
)

const (
	// Timeout is how long things may take that should happen at once.
	Timeout = 2 * time.Minute
	// pollInterval is how often is looked.
	pollInterval = 100 * time.Millisecond
)

// Config configures a [Cluster].
type Config struct {
	// Nodes is how many nodes there are. Their names are n1, n2 and so on.
	Nodes int
	// NodeSetup, if not nil, prepares the root directory of a node before it starts.
	NodeSetup func(root string) error
	// GracePeriod is how long a silent node counts as ready. Default 10 s.
	GracePeriod time.Duration
}

// Cluster is a running cluster. It ends with its test.
type Cluster struct {
	Client kubernetes.Interface
	REST   *rest.Config
	// Kubeconfig is the path of that of the administrator.
	Kubeconfig string
	Nodes      []*Node

	tb       testing.TB
	cfg      Config
	dir      string
	programs string
	registry *process
	keys     *authority
}

// Start starts a cluster and waits until all its nodes are ready. There can be one at a
// time in a test program, whose TestMain has called [Main].
func Start(tb testing.TB, cfg Config) *Cluster {
	tb.Helper()
	require.FUSE(tb)
	require.NetNS(tb)
	if os.Getenv(envStage) != stageInside {
		tb.Fatal("TestMain does not call cluster.Main")
	}
	// The clusters of one program, one after the other, have nothing in common.
	dir, err := os.MkdirTemp(os.Getenv(envDir), "c") //nolint:usetesting // where the janitor cleans
	if err != nil {
		tb.Fatal(err)
	}
	c := &Cluster{tb: tb, cfg: cfg, dir: dir}
	start := time.Now()
	for _, step := range []func() error{c.network, c.writeKeys, c.controlPlane, c.startRegistry, c.pushPause} {
		if err := step(); err != nil {
			tb.Fatal(err)
		}
	}
	tb.Logf("%5.1f s: the control plane is up", time.Since(start).Seconds())
	for i := range cfg.Nodes {
		c.Nodes = append(c.Nodes, c.newNode(i+1))
		if err := c.Nodes[i].Start(); err != nil {
			tb.Fatal(err)
		}
	}
	for _, n := range c.Nodes {
		n.AwaitReady(Timeout)
	}
	tb.Logf("%5.1f s: %d nodes are ready", time.Since(start).Seconds(), cfg.Nodes)
	return c
}

// network makes the bridge that the nodes are on.
func (c *Cluster) network() error {
	c.tb.Cleanup(func() {
		if err := errors.Join(ip("link", "del", "bridge0"), ip("addr", "del", serviceIP+"/32", "dev", "lo")); err != nil {
			c.tb.Error(err)
		}
	})
	for _, args := range [][]string{
		{"link", "add", "bridge0", "type", "bridge"},
		{"addr", "add", hostIP + "/24", "dev", "bridge0"},
		{"link", "set", "bridge0", "up"},
		{"addr", "add", serviceIP + "/32", "dev", "lo"},
	} {
		if err := ip(args...); err != nil {
			return err
		}
	}
	return nil
}

// writeKeys writes all keys, certificates and tokens.
func (c *Cluster) writeKeys() error {
	for _, name := range []string{"keys", "log", "etcd", "registry"} {
		if err := os.Mkdir(filepath.Join(c.dir, name), 0o700); err != nil {
			return fmt.Errorf("making a directory: %w", err)
		}
	}
	var err error
	if c.keys, err = newAuthority(filepath.Join(c.dir, "keys")); err != nil {
		return err
	}
	err = c.keys.issue("apiserver", pkix.Name{CommonName: "kube-apiserver"}, net.ParseIP(hostIP), net.ParseIP(serviceIP), net.IPv4(127, 0, 0, 1))
	if err != nil {
		return err
	}
	admins := pkix.Name{CommonName: "apiserver", Organization: []string{"system:masters"}}
	if err := c.keys.issue("kubelet-client", admins); err != nil {
		return err
	}
	if _, err := c.keys.keyPair("accounts"); err != nil {
		return err
	}
	if c.Kubeconfig, err = c.keys.kubeconfig("admin", "admin", "system:masters"); err != nil {
		return err
	}
	for _, name := range []string{"kube-controller-manager", "kube-scheduler"} {
		if _, err := c.keys.kubeconfig(name, "system:"+name); err != nil {
			return err
		}
	}
	for i := range c.cfg.Nodes {
		name := nodeName(i + 1)
		if _, err := c.keys.kubeconfig(name, "system:node:"+name, "system:nodes"); err != nil {
			return err
		}
	}
	return c.keys.writeTokens()
}

// controlPlane starts the programs of the control plane.
func (c *Cluster) controlPlane() error {
	var err error
	if c.programs, err = buildPrograms(c.tb.Context()); err != nil {
		return err
	}
	if err := c.run("etcd", "--data-dir", filepath.Join(c.dir, "etcd"), "--unsafe-no-fsync", "--log-level", "warn",
		"--listen-client-urls", etcdAddress, "--advertise-client-urls", etcdAddress,
		"--listen-peer-urls", "http://127.0.0.1:2380"); err != nil {
		return err
	}
	if err := c.run("kube-apiserver", c.apiserverFlags()...); err != nil {
		return err
	}
	if c.REST, err = clientcmd.BuildConfigFromFlags("", c.Kubeconfig); err != nil {
		return fmt.Errorf("reading the kubeconfig: %w", err)
	}
	c.REST.QPS, c.REST.Burst = 200, 400
	if c.Client, err = kubernetes.NewForConfig(c.REST); err != nil {
		return fmt.Errorf("making a client: %w", err)
	}
	c.Await("the API server", Timeout, func(ctx context.Context) (bool, error) {
		_, err := c.Client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		return err == nil, nil
	})
	grace := c.cfg.GracePeriod
	if grace == 0 {
		grace = 10 * time.Second
	}
	manager := c.keys.path("kube-controller-manager.kubeconfig")
	if err := c.run("kube-controller-manager", "--kubeconfig", manager, "--use-service-account-credentials", "--leader-elect=false",
		"--service-account-private-key-file", c.keys.path("accounts.key"), "--root-ca-file", c.keys.path("ca.crt"),
		"--authentication-kubeconfig", manager, "--authorization-kubeconfig", manager,
		"--node-monitor-grace-period", grace.String(), "--node-monitor-period", "2s"); err != nil {
		return err
	}
	scheduler := c.keys.path("kube-scheduler.kubeconfig")
	if err := c.run("kube-scheduler", "--kubeconfig", scheduler, "--leader-elect=false",
		"--authentication-kubeconfig", scheduler, "--authorization-kubeconfig", scheduler); err != nil {
		return err
	}
	c.Await("the default service account", Timeout, func(ctx context.Context) (bool, error) {
		_, err := c.Client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		return err == nil, ignoreNotFound(err)
	})
	return nil
}

func (c *Cluster) apiserverFlags() []string {
	return []string{
		"--etcd-servers", etcdAddress, "--bind-address", "0.0.0.0", "--advertise-address", hostIP, "--secure-port", "443",
		"--tls-cert-file", c.keys.path("apiserver.crt"), "--tls-private-key-file", c.keys.path("apiserver.key"),
		"--client-ca-file", c.keys.path("ca.crt"), "--token-auth-file", c.keys.path("tokens.csv"),
		"--authorization-mode", "Node,RBAC", "--enable-admission-plugins", "NodeRestriction", "--allow-privileged",
		"--service-cluster-ip-range", serviceRange, "--service-account-issuer", "https://kubernetes.default.svc",
		"--service-account-signing-key-file", c.keys.path("accounts.key"), "--service-account-key-file", c.keys.path("accounts.pub"),
		"--kubelet-client-certificate", c.keys.path("kubelet-client.crt"), "--kubelet-client-key", c.keys.path("kubelet-client.key"),
		"--kubelet-preferred-address-types", "InternalIP",
		"--requestheader-client-ca-file", c.keys.path("ca.crt"), "--requestheader-allowed-names", "none",
		"--requestheader-username-headers", "X-Remote-User",
	}
}

// Await polls until a condition holds, and fails the test on an error or when it takes
// too long.
func (c *Cluster) Await(what string, patience time.Duration, holds func(context.Context) (bool, error)) {
	c.tb.Helper()
	ctx, cancel := context.WithTimeout(c.tb.Context(), patience)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		held, err := holds(ctx)
		if err != nil && ctx.Err() == nil {
			c.tb.Fatalf("waiting for %s: %v", what, err)
		}
		if held {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			c.tb.Fatalf("waiting for %s: not within %s", what, patience)
		}
	}
}

// containerdPrograms returns the directory of containerd and its company.
func (c *Cluster) containerdPrograms() (string, error) { return containerdtest.Build(c.tb.Context()) }

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
