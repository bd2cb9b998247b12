package cluster

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubelet "k8s.io/kubelet/config/v1beta1"
	"sigs.k8s.io/yaml"
)

// sysctls are those that kubelet sets, with the values that it wants. They are those of
// the machine, so in a node there are plain files in their places.
func sysctls() map[string]string {
	return map[string]string{
		"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
		"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
	}
}

// unitFile returns a unit that runs a program as long as the node runs.
func unitFile(command string) string {
	return "[Service]\nExecStart=" + command + "\nRestart=always\nKillMode=process\n"
}

// containerdConfig is that of a node without Brisk.
const containerdConfig = `version = 3
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
imports = ["/etc/containerd/conf.d/*.toml"]
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "` + pauseImage + `"
[plugins."io.containerd.cri.v1.images".registry]
config_path = "/etc/containerd/certs.d"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/usr/local/bin"]
conf_dir = "/etc/cni/net.d"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "/usr/local/bin/runc"
`

const containerdHosts = `server = "http://` + Registry + `"
[host."http://` + Registry + `"]
capabilities = ["pull", "resolve"]
`

// makeRoot makes the root directory of a node.
func (n *Node) makeRoot() error {
	for _, dir := range []string{
		"dev", "proc", "run", "sys", "usr", "old", "opt", "tmp", "root", "programs", "self", "etc/containerd/conf.d", "etc/brisk",
		"var/lib", "var/log", "var/tmp",
	} {
		if err := os.MkdirAll(filepath.Join(n.Root, dir), 0o755); err != nil { //nolint:gosec // a root directory
			return fmt.Errorf("making a directory: %w", err)
		}
	}
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		if _, err := os.Lstat("/" + dir); err != nil {
			continue
		}
		if err := os.Symlink("usr/"+dir, filepath.Join(n.Root, dir)); err != nil {
			return fmt.Errorf("linking a directory: %w", err)
		}
	}
	groups, err := makeGroups(filepath.Dir(n.c.dir), filepath.Base(n.c.dir)+"-"+n.Name)
	if err != nil {
		return err
	}
	kubeconfig, err := os.ReadFile(n.c.keys.path(n.Name + ".kubeconfig"))
	if err != nil {
		return fmt.Errorf("reading a kubeconfig: %w", err)
	}
	ca, err := os.ReadFile(n.c.keys.path("ca.crt"))
	if err != nil {
		return fmt.Errorf("reading a certificate: %w", err)
	}
	settings, err := kubeletConfig(n.IP, groups)
	if err != nil {
		return err
	}
	network, err := networkConfig(podNetwork(n.number))
	if err != nil {
		return err
	}
	files := map[string]string{ //nolint:gosec // no credentials, but names of files
		"etc/passwd": "root:x:0:0::/root:/bin/sh\n", "etc/group": "root:x:0:\n", "etc/hostname": n.Name + "\n",
		"etc/hosts": "127.0.0.1 localhost\n" + n.IP + " " + n.Name + "\n", "etc/resolv.conf": "nameserver 127.0.0.1\n",
		"etc/machine-id":                                     fmt.Sprintf("%032d\n", n.number),
		"etc/containerd/config.toml":                         containerdConfig,
		"etc/cni/net.d/10-pods.conflist":                     string(network),
		"etc/containerd/certs.d/" + Registry + "/hosts.toml": containerdHosts,
		"etc/kubernetes/kubelet.yaml":                        string(settings),
		"etc/kubernetes/kubelet.kubeconfig":                  string(kubeconfig),
		"etc/kubernetes/ca.crt":                              string(ca),
		"etc/systemd/system/containerd.service":              unitFile("/usr/local/bin/containerd"),
		"etc/systemd/system/kubelet.service": unitFile("/usr/local/bin/kubelet --config /etc/kubernetes/kubelet.yaml" +
			" --kubeconfig /etc/kubernetes/kubelet.kubeconfig --hostname-override " + n.Name + " --node-ip " + n.IP),
	}
	for name, value := range sysctls() {
		files["etc/kubernetes/sysctl/"+name] = value + "\n"
	}
	for path, content := range files {
		path = filepath.Join(n.Root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // a root directory
			return fmt.Errorf("making a directory: %w", err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil { //nolint:gosec // as on any node
			return fmt.Errorf("writing a file: %w", err)
		}
	}
	if n.c.cfg.NodeSetup != nil {
		return n.c.cfg.NodeSetup(n.Root)
	}
	return nil
}

func kubeletConfig(ip, groups string) ([]byte, error) {
	no, percent, low := false, int32(100), int32(99)
	config := kubelet.KubeletConfiguration{
		TypeMeta: metav1.TypeMeta{APIVersion: "kubelet.config.k8s.io/v1beta1", Kind: "KubeletConfiguration"}, Address: ip,
		Authentication: kubelet.KubeletAuthentication{
			Anonymous: kubelet.KubeletAnonymousAuthentication{Enabled: &no},
			X509:      kubelet.KubeletX509Authentication{ClientCAFile: "/etc/kubernetes/ca.crt"},
		},
		Authorization:            kubelet.KubeletAuthorization{Mode: kubelet.KubeletAuthorizationModeWebhook},
		ContainerRuntimeEndpoint: "unix:///run/containerd/containerd.sock", CgroupDriver: "cgroupfs", CgroupRoot: groups,
		FailCgroupV1: &no, FailSwapOn: &no, EnforceNodeAllocatable: []string{"pods"}, SerializeImagePulls: &no,
		// The disk of the machine may be as full as it likes.
		EvictionHard: map[string]string{
			"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%",
		},
		ImageGCHighThresholdPercent: &percent, ImageGCLowThresholdPercent: &low,
	}
	content, err := yaml.Marshal(config)
	if err != nil {
		return nil, fmt.Errorf("configuring kubelet: %w", err)
	}
	return content, nil
}

// networkConfig returns the configuration of the network of pods.
func networkConfig(subnet string) ([]byte, error) {
	content, err := json.Marshal(map[string]any{
		"cniVersion": "1.0.0", "name": "pods", "plugins": []any{map[string]any{
			"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
			"ipam": map[string]any{
				"type": "host-local", "ranges": []any{[]any{map[string]any{"subnet": subnet}}},
				"routes": []any{map[string]any{"dst": "0.0.0.0/0"}},
			},
		}},
	})
	if err != nil {
		return nil, fmt.Errorf("configuring the network of pods: %w", err)
	}
	return content, nil
}
