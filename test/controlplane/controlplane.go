// Package controlplane runs a real kube-apiserver on a real etcd in the process of a
// test. There are no controllers, no scheduler and no nodes but those that the test makes.
//
// To build it takes minutes with the race detector, so few packages should import it.
package controlplane

import (
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	apiservertesting "k8s.io/kubernetes/cmd/kube-apiserver/app/testing"
)

// patience is how long anything here may take on a busy machine.
const patience = 2 * time.Minute

// ControlPlane is a running API server.
type ControlPlane struct {
	// Admin is how to reach the API server with all rights. Copy it to change it.
	Admin *rest.Config
}

// Start runs etcd and an API server until the end of the test. Access is checked with
// RBAC. Pods can be made without a service account being there, and nodes stay without
// the taint of those that are not ready, for nobody would make the one or remove the
// other. The flags of kube-apiserver given come last. The environment variable
// [EnvAPIServer] names a program to run instead of the server in this process.
func Start(tb testing.TB, flags ...string) *ControlPlane {
	tb.Helper()
	flags = append([]string{
		"--authorization-mode=Node,RBAC",
		"--disable-admission-plugins=ServiceAccount,TaintNodesByCondition",
	}, flags...)
	etcd := startEtcd(tb)
	if program := os.Getenv(EnvAPIServer); program != "" {
		return &ControlPlane{Admin: startProgram(tb, program, etcd, flags)}
	}
	storage := storagebackend.NewDefaultConfig("/registry", nil)
	storage.Transport.ServerList = []string{etcd}
	server := apiservertesting.StartTestServerOrDie(tb, nil, flags, storage)
	tb.Cleanup(server.TearDownFn)
	return &ControlPlane{Admin: server.ClientConfig}
}

// startEtcd returns where etcd is reached.
func startEtcd(tb testing.TB) string {
	tb.Helper()
	cfg := embed.NewConfig()
	cfg.Dir = tb.TempDir()
	cfg.LogLevel = "fatal"   // it calls its end an error
	cfg.UnsafeNoFsync = true // what it holds ends with the test
	free := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	cfg.ListenClientUrls, cfg.ListenPeerUrls = []url.URL{free}, []url.URL{free}
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		tb.Fatalf("starting etcd: %v", err)
	}
	tb.Cleanup(etcd.Close)
	select {
	case <-etcd.Server.ReadyNotify():
	case <-time.After(patience):
		tb.Fatal("etcd is not ready")
	}
	return "http://" + etcd.Clients[0].Addr().String()
}

// Kubeconfig writes a file for programs to reach an API server as cfg says, and returns
// its path.
func Kubeconfig(tb testing.TB, cfg *rest.Config) string {
	tb.Helper()
	const name = "test"
	content := clientcmdapi.NewConfig()
	content.Clusters[name] = &clientcmdapi.Cluster{
		Server: cfg.Host, TLSServerName: cfg.ServerName,
		CertificateAuthority: cfg.CAFile, CertificateAuthorityData: cfg.CAData, InsecureSkipTLSVerify: cfg.Insecure,
	}
	content.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: cfg.BearerToken, TokenFile: cfg.BearerTokenFile}
	content.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	content.CurrentContext = name
	path := filepath.Join(tb.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*content, path); err != nil {
		tb.Fatalf("writing %s: %v", path, err)
	}
	return path
}

// Repository returns the path of a file of this repository, given as seen from its root.
func Repository(tb testing.TB, path string) string {
	tb.Helper()
	dir, err := os.Getwd()
	if err != nil {
		tb.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, path)
		}
		if dir == filepath.Dir(dir) {
			tb.Fatal("the test does not run within the repository")
		}
		dir = filepath.Dir(dir)
	}
}
