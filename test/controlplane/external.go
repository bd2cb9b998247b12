package controlplane

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// EnvAPIServer is the environment variable with the path of a kube-apiserver program, to
// test with another version than the one in the process of the test.
const EnvAPIServer = "BRISK_TEST_APISERVER"

// adminToken is what the administrator logs in with. The server is only on loopback.
const adminToken = "administrator"

// starts is how often a server is started whose port somebody else has taken meanwhile.
const starts = 3

// startProgram runs a kube-apiserver program until the end of the test.
func startProgram(tb testing.TB, program, etcd string, flags []string) *rest.Config {
	tb.Helper()
	for range starts {
		cfg, ended := startOnce(tb, program, etcd, flags)
		if awaitReady(tb, cfg, ended) {
			return cfg
		}
	}
	tb.Fatal("kube-apiserver ends before it is ready")
	return nil
}

// startOnce starts the program, and returns how to reach it and what is closed when it ends.
func startOnce(tb testing.TB, program, etcd string, flags []string) (*rest.Config, <-chan struct{}) {
	tb.Helper()
	dir := tb.TempDir()
	key, tokens := filepath.Join(dir, "service-accounts.key"), filepath.Join(dir, "tokens.csv")
	writeFile(tb, key, newKey(tb))
	writeFile(tb, tokens, []byte(adminToken+",admin,admin,system:masters\n"))
	host, port := freePort(tb)
	args := append([]string{
		"--etcd-servers=" + etcd, "--bind-address=" + host, "--advertise-address=" + host, "--secure-port=" + port,
		"--endpoint-reconciler-type=none", "--cert-dir=" + dir, "--token-auth-file=" + tokens,
		"--service-cluster-ip-range=10.0.0.0/24", "--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + key, "--service-account-signing-key-file=" + key,
	}, flags...)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		tb.Fatal(err)
	}
	// The context of a test ends before its cleanups, which still need the server.
	cmd := exec.CommandContext(context.WithoutCancel(tb.Context()), program, args...) //nolint:gosec // the person who runs the tests names the program
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		tb.Fatalf("starting kube-apiserver: %v", err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() //nolint:errcheck // it is killed, or the log says why it ended
	}()
	tb.Cleanup(func() {
		_ = cmd.Process.Kill() //nolint:errcheck // it may have ended
		<-ended
		if content, err := os.ReadFile(log.Name()); tb.Failed() && err == nil {
			tb.Logf("end of the log of kube-apiserver:\n%s", content[max(0, len(content)-4096):])
		}
		if err := log.Close(); err != nil {
			tb.Error(err)
		}
	})
	cfg := &rest.Config{Host: "https://" + net.JoinHostPort(host, port), BearerToken: adminToken}
	cfg.CAFile = filepath.Join(dir, "apiserver.crt")
	return cfg, ended
}

// awaitReady waits until an API server, which writes its certificate first, is ready. It
// returns false if the program has ended instead.
func awaitReady(tb testing.TB, cfg *rest.Config, ended <-chan struct{}) bool {
	tb.Helper()
	var last error
	gone := false
	err := wait.PollUntilContextTimeout(tb.Context(), poll, patience, true, func(ctx context.Context) (bool, error) {
		select {
		case <-ended:
			gone = true
			return true, nil
		default:
		}
		client, err := kubernetes.NewForConfig(cfg)
		if err == nil {
			err = client.Discovery().RESTClient().Get().AbsPath("/readyz").Timeout(time.Second).Do(ctx).Error()
		}
		last = err
		return err == nil, nil
	})
	if err != nil {
		tb.Fatalf("waiting for kube-apiserver: %v; last: %v", err, last)
	}
	return !gone
}

func newKey(tb testing.TB) []byte {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
}

func writeFile(tb testing.TB, path string, content []byte) {
	tb.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		tb.Fatal(err)
	}
}

// freePort returns an address on loopback that nobody listens on.
func freePort(tb testing.TB) (host, port string) {
	tb.Helper()
	var lc net.ListenConfig
	listener, err := lc.Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	address, ok := listener.Addr().(*net.TCPAddr)
	if err := listener.Close(); err != nil || !ok {
		tb.Fatalf("closing %v: %v", listener.Addr(), err)
	}
	return address.IP.String(), strconv.Itoa(address.Port)
}
