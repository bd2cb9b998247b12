package controlplane_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"k8s.io/client-go/discovery"

	"github.com/brisk-project/brisk/test/controlplane"
)

// inProcess is the minor version of the server that is linked into tests.
const inProcess = "34"

// TestServerHasTheVersionAskedFor keeps a run with another kube-apiserver from testing the
// one in the process of the test.
func TestServerHasTheVersionAskedFor(t *testing.T) {
	client, err := discovery.NewDiscoveryClientForConfig(controlplane.Start(t).Admin)
	if err != nil {
		t.Fatal(err)
	}
	version, err := client.ServerVersion()
	if err != nil {
		t.Fatal(err)
	}
	program := os.Getenv(controlplane.EnvAPIServer)
	if program == "" {
		if version.Major != "1" || version.Minor != inProcess {
			t.Errorf("the server in this process is %s.%s (%s), want 1.%s", version.Major, version.Minor, version.GitVersion, inProcess)
		}
		return
	}
	out, err := exec.CommandContext(t.Context(), program, "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.TrimSpace(string(out)); want != "Kubernetes "+version.GitVersion {
		t.Errorf("the server is %s, want %s", version.GitVersion, want)
	}
}
