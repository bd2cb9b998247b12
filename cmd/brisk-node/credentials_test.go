package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/snapshots"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/brisk-project/brisk/node/agent"
	containerdapi "github.com/brisk-project/brisk/node/containerd"
	"github.com/brisk-project/brisk/test/containerdtest"
	"github.com/brisk-project/brisk/test/registrytest"
)

// hidden is a password that must not be found anywhere.
const hidden = "swordfish-4711"

// private returns a registry that wants a token for hidden.
func private(t *testing.T, cfg registrytest.Config) *registrytest.Registry {
	t.Helper()
	cfg.Auth = registrytest.AuthToken
	reg := registrytest.New(t, cfg)
	reg.SetPassword(hidden)
	return reg
}

// pullAs pulls as kubelet does, over a socket and with a password.
func (s *site) pullAs(socket, ref, password string) error {
	s.t.Helper()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // all is done
	_, err = cri.NewImageServiceClient(conn).PullImage(s.t.Context(), &cri.PullImageRequest{
		Image: &cri.ImageSpec{Image: ref}, Auth: &cri.AuthConfig{Username: registrytest.User, Password: password},
	}, grpc.WaitForReady(true))
	return err
}

// requireLazy checks that an image was pulled lazily, and runs a container of it.
func (s *site) requireLazy(id, ref, path, sum string) {
	s.t.Helper()
	if len(s.logs.lines("loaded when they are read", strings.TrimPrefix(ref, s.reg.Addr()))) == 0 {
		s.t.Errorf("%s is not lazy", ref)
	}
	image, err := s.Client.GetImage(s.Context(), ref)
	if err != nil {
		s.t.Fatal(err)
	}
	s.requireSum(id, image, path, sum)
}

func (s *site) status() agent.Status {
	s.t.Helper()
	out, err := command(s.t, "status", "--dir", s.dir, "-o", "json")
	if err != nil {
		s.t.Fatal(err)
	}
	var status agent.Status
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		s.t.Fatal(err)
	}
	return status
}

// requireHidden checks that secrets are in no log, label, status, metric, or file.
func (s *site) requireHidden(metrics string, files bool) {
	s.t.Helper()
	table, err := command(s.t, "status", "--dir", s.dir)
	if err != nil {
		s.t.Error(err)
	}
	raw, err := command(s.t, "status", "--dir", s.dir, "-o", "json")
	if err != nil {
		s.t.Error(err)
	}
	places := map[string]string{"log": s.logs.String(), "status": table, "status in JSON": raw, "metrics": metrics}
	err = s.Client.SnapshotService(containerdtest.Snapshotter).Walk(s.Context(), snapshotLabels(places))
	if err != nil {
		s.t.Error(err)
	}
	err = s.Client.ContentStore().Walk(s.Context(), func(info content.Info) error {
		places["labels of "+info.Digest.String()] = fmt.Sprint(info.Labels)
		return nil
	})
	if err != nil {
		s.t.Error(err)
	}
	err = filepath.WalkDir(s.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !files || !entry.Type().IsRegular() {
			return nil //nolint:nilerr // gone meanwhile
		}
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		places["file "+path] = string(data)
		return err
	})
	if err != nil {
		s.t.Error(err)
	}
	for place, text := range places {
		for _, secret := range secrets() {
			if strings.Contains(text, secret) {
				s.t.Errorf("%s holds %q", place, secret)
			}
		}
	}
}

func snapshotLabels(places map[string]string) snapshots.WalkFunc {
	return func(_ context.Context, info snapshots.Info) error {
		places["labels of "+info.Name] = fmt.Sprint(info.Labels)
		return nil
	}
}

// secrets are the password, the token got for it, and what is shown of them to servers.
func secrets() []string {
	return []string{hidden, "Bearer token-", "token-1", base64.StdEncoding.EncodeToString([]byte(registrytest.User + ":" + hidden))}
}

// TestKubeletCredentials pulls a private image as kubelet does. What the program learns
// from that lasts beyond it and beyond containerd.
func TestKubeletCredentials(t *testing.T) {
	t.Parallel()
	address := freeAddress(t)
	socket := filepath.Join(t.TempDir(), "run", "cri.sock")
	flags := []string{"--cri-socket", socket, "--http", address, "-v", "--docker-config", filepath.Join(t.TempDir(), "none"), "--cache-min-free", "1Mi"}
	s := newSiteAt(t, private(t, registrytest.Config{}), containerdtest.Config{}, flags...)
	data, path, sum := files(t, 1, 1<<20)
	more, morePath, moreSum := files(t, 2, 1<<20)
	first, second := s.push("team/app:v1", true, shell(t), data), s.push("team/app:v2", true, shell(t), more)
	if err := s.pullAs(socket, first, "wrong"); err == nil {
		t.Error("a wrong password works")
	}
	if err := s.pullAs(socket, first, hidden); err != nil {
		t.Fatal(err)
	}
	s.requireLazy("one", first, path, sum)
	status := s.status()
	if !slices.Equal(status.Credentials, []string{"captured", "keychain"}) || len(status.Repositories) != 1 || status.Repositories[0].Source != "captured" {
		t.Errorf("credentials %q, %+v", status.Credentials, status.Repositories)
	}
	s.stop()
	s.stop = s.run(flags...)
	s.reg.RevokeTokens()
	// Not through the program, so it has nothing but what it kept.
	s.awaitConnected()
	if err := s.pullAs(s.Address, second, hidden); err != nil {
		t.Fatal(err)
	}
	s.requireLazy("two", second, morePath, moreSum)
	// containerd goes and comes.
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	third := s.push("team/app:v3", true, shell(t), data, more)
	containerdtest.Await(t, "a pull after containerd has restarted", containerdtest.Timeout, func() bool {
		return s.pullAs(socket, third, hidden) == nil
	})
	s.requireLazy("three", third, path+" "+morePath, sum+moreSum)
	if code, body := fetch(t, "http://"+address+"/readyz"); code != http.StatusOK {
		t.Errorf("%d, %s", code, body)
	}
	if err := containerdapi.CheckImageService(t.Context(), socket); err != nil {
		t.Error(err)
	}
	_, metrics := fetch(t, "http://"+address+"/metrics")
	s.requireHidden(metrics, true)
	for _, name := range []string{"credentials", "credentials.key"} {
		if info, err := os.Stat(filepath.Join(s.dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}

// TestNothingNeeded starts a container whose blocks are on the node while the registry is
// down and nothing is accepted any more.
func TestNothingNeeded(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "cri.sock")
	s := newSiteAt(t, private(t, registrytest.Config{TokenLife: time.Second}), containerdtest.Config{}, "--cri-socket", socket)
	data, path, sum := files(t, 1, 1<<20)
	ref := s.push("app:v1", true, shell(t), data)
	if err := s.pullAs(socket, ref, hidden); err != nil {
		t.Fatal(err)
	}
	s.requireLazy("before", ref, path, sum)
	containerdtest.Await(t, "the image being complete", 20*time.Second, func() bool {
		return len(s.logs.lines("image is complete")) > 0
	})
	s.stop()
	s.reg.SetPassword("rotated")
	s.reg.RevokeTokens()
	s.reg.Inject(registrytest.Rule{Match: func(*http.Request) bool { return true }, Fault: registrytest.Cut(-1)})
	s.stop = s.run("--cri-socket", socket)
	s.awaitConnected()
	s.requireLazy("after", ref, path, sum)
}

// secretFile writes a Docker configuration for a registry.
func secretFile(t *testing.T, path, registry, password string) {
	t.Helper()
	auth := base64.StdEncoding.EncodeToString([]byte(registrytest.User + ":" + password))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, registry, auth), 0o600); err != nil {
		t.Fatal(err)
	}
}

// plugin makes a credential plugin of kubelet, and returns the flags for it.
func plugin(t *testing.T, registry, password string) []string {
	t.Helper()
	dir := t.TempDir()
	script := fmt.Sprintf(`#!/bin/sh
cat >/dev/null
echo '{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Registry","cacheDuration":"5s",'
echo '"auth":{"%s":{"username":"%s","password":"%s"}}}'
`, registry, registrytest.User, password)
	config := fmt.Sprintf(`{"apiVersion":"kubelet.config.k8s.io/v1","kind":"CredentialProviderConfig","providers":[
{"name":"cloud","matchImages":[%q],"defaultCacheDuration":"1h","apiVersion":"credentialprovider.kubelet.k8s.io/v1"}]}`, registry)
	for name, text := range map[string]string{"cloud": script, "config.json": config} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return []string{"--credential-plugins-config", filepath.Join(dir, "config.json"), "--credential-plugins-dir", dir}
}

// TestSources finds the credential that works with the last source, and reads on while
// tokens end and are taken back.
func TestSources(t *testing.T) {
	t.Parallel()
	reg := private(t, registrytest.Config{TokenLife: 5 * time.Second, BitsPerSecond: 16 << 20})
	dir := t.TempDir()
	secretFile(t, filepath.Join(dir, "secrets", "team", ".dockerconfigjson"), reg.Addr(), "wrong")
	secretFile(t, filepath.Join(dir, "docker.json"), reg.Addr(), "wrong as well")
	flags := append(plugin(t, reg.Addr(), hidden),
		"--credentials-dir", filepath.Join(dir, "secrets"), "--docker-config", filepath.Join(dir, "docker.json"), "-v")
	s := newSiteAt(t, reg, containerdtest.Config{}, flags...)
	data, path, sum := files(t, 1, 12<<20)
	ref := s.push("app:v1", true, shell(t), data)
	// containerd has a credential of its own here.
	if err := s.pullAs(s.Address, ref, hidden); err != nil {
		t.Fatal(err)
	}
	status := s.status()
	if !slices.Equal(status.Credentials, []string{"directory", "keychain", "plugin cloud"}) ||
		len(status.Repositories) != 1 || status.Repositories[0].Source != "plugin cloud" {
		t.Errorf("credentials %q, %+v", status.Credentials, status.Repositories)
	}
	reg.ResetRequests()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.requireLazy("one", ref, path, sum)
	}()
	tick := time.NewTicker(1500 * time.Millisecond)
	defer tick.Stop()
	for running := true; running; {
		select {
		case <-tick.C:
			reg.RevokeTokens()
		case <-ended:
			running = false
		}
	}
	refused := slices.ContainsFunc(reg.BlobRequests(), func(r registrytest.Request) bool { return r.Status == http.StatusUnauthorized })
	if !refused {
		t.Error("no token was refused while the container read")
	}
	s.requireHidden("", true)
}

// TestHosts pulls through a mirror that containerd is configured with; the registry itself
// does not exist.
func TestHosts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newSiteWith(t, containerdtest.Config{ConfigPath: dir}, "--registry-config-path", dir)
	data, path, sum := files(t, 1, 1<<20)
	there := s.push("app:v1", true, shell(t), data)
	if err := os.MkdirAll(filepath.Join(dir, "registry.invalid"), 0o700); err != nil {
		t.Fatal(err)
	}
	mirror := fmt.Sprintf("[host.%q]\n", "http://"+s.reg.Addr())
	if err := os.WriteFile(filepath.Join(dir, "registry.invalid", "hosts.toml"), []byte(mirror), 0o600); err != nil {
		t.Fatal(err)
	}
	ref := strings.Replace(there, s.reg.Addr(), "registry.invalid", 1)
	if err := s.pullAs(s.Address, ref, "unused"); err != nil {
		t.Fatal(err)
	}
	if s.downloaded(shell(t), data) != 0 {
		t.Error("layers were downloaded")
	}
	s.requireLazy("one", ref, path, sum)
}
