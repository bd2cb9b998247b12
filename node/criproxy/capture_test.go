package criproxy

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func request(image string, auth *runtimeapi.AuthConfig) *runtimeapi.PullImageRequest {
	return &runtimeapi.PullImageRequest{
		Image: &runtimeapi.ImageSpec{Image: image, Annotations: map[string]string{"a": "b"}, RuntimeHandler: "runc"},
		Auth:  auth,
		SandboxConfig: &runtimeapi.PodSandboxConfig{
			Metadata: &runtimeapi.PodSandboxMetadata{Name: "pod", Attempt: 7},
		},
	}
}

func TestCapture(t *testing.T) {
	s := newSetup(t, Config{})
	encoded := base64.StdEncoding.EncodeToString([]byte("u:" + hidden))
	const digest = "@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	var sent []*runtimeapi.PullImageRequest
	for _, tt := range []struct {
		image string
		auth  *runtimeapi.AuthConfig
		want  string // "" for nothing
		log   string
	}{
		{"r.example/app:v1", &runtimeapi.AuthConfig{Username: "u", Password: hidden}, "r.example/app u:" + hidden + "   ", ""},
		{"r.example/app" + digest, &runtimeapi.AuthConfig{Auth: encoded}, "r.example/app : " + encoded + "  ", ""},
		{"r.example/app:v1" + digest, &runtimeapi.AuthConfig{IdentityToken: hidden}, "r.example/app :  " + hidden + " ", ""},
		{"docker.io/library/nginx:latest", &runtimeapi.AuthConfig{RegistryToken: hidden, ServerAddress: "https://index.docker.io/v1/"}, "index.docker.io/library/nginx :   " + hidden, ""},
		{"nginx", &runtimeapi.AuthConfig{Username: "u", ServerAddress: "registry-1.docker.io"}, "index.docker.io/library/nginx u:   ", ""},
		{"localhost:5000/app", &runtimeapi.AuthConfig{Username: "u", ServerAddress: "http://localhost:5000"}, "localhost:5000/app u:   ", ""},
		{"r.example/app", nil, "", ""},
		{"r.example/app", &runtimeapi.AuthConfig{}, "", ""},
		{"r.example/app", &runtimeapi.AuthConfig{ServerAddress: "r.example"}, "", ""},
		{"r.example/app", &runtimeapi.AuthConfig{Username: "u", Password: hidden, ServerAddress: "https://other.example"}, "", "another server"},
		{"r.example:5000/app", &runtimeapi.AuthConfig{Username: "u", Password: hidden, ServerAddress: "r.example"}, "", "another server"},
		{"UPPER", &runtimeapi.AuthConfig{Username: "u", Password: hidden}, "", "not a reference"},
		{strings.Repeat("a", maxReference+1), &runtimeapi.AuthConfig{Username: "u", Password: hidden}, "", "the limit is"},
	} {
		before, logged := len(s.seen.list()), len(s.log.String())
		req := request(tt.image, tt.auth)
		sent = append(sent, req)
		if _, err := runtimeapi.NewImageServiceClient(s.conn).PullImage(t.Context(), req); err != nil {
			t.Errorf("%.50s: %v", tt.image, err)
		}
		got := strings.Join(s.seen.list()[before:], "|")
		if got != tt.want {
			t.Errorf("%.50s: captured %q, want %q", tt.image, got, tt.want)
		}
		if log := s.log.String()[logged:]; !strings.Contains(log, tt.log) || (tt.log == "") != (log == "") || strings.Contains(log, hidden) {
			t.Errorf("%.50s: logged %q", tt.image, log)
		}
	}
	s.runtime.mu.Lock()
	defer s.runtime.mu.Unlock()
	for i, req := range sent {
		if !proto.Equal(req, s.runtime.pulled[i]) {
			t.Errorf("pull %d changed on its way", i)
		}
	}
}

// A credential that cannot be kept is no reason not to pull.
func TestCaptureFails(t *testing.T) {
	s := newSetup(t, Config{})
	s.seen.err = errors.New("disk on fire")
	_, err := runtimeapi.NewImageServiceClient(s.conn).PullImage(t.Context(), request("r.example/app", &runtimeapi.AuthConfig{Username: "u", Password: hidden}))
	if err != nil || !strings.Contains(s.log.String(), "disk on fire") || strings.Contains(s.log.String(), hidden) {
		t.Errorf("%v, logged %s", err, s.log)
	}
}

func TestPulls(t *testing.T) {
	for method, want := range map[string]bool{
		runtimeapi.ImageService_PullImage_FullMethodName:   true,
		"/runtime.v1alpha2.ImageService/PullImage":         true,
		runtimeapi.ImageService_ImageStatus_FullMethodName: false,
		"/other.v1.ImageService/PullImage":                 false,
		"":                                                 false,
	} {
		if pulls(method) != want {
			t.Errorf("%s: %t", method, !want)
		}
	}
}

func FuzzParsePull(f *testing.F) {
	for _, req := range []*runtimeapi.PullImageRequest{
		{},
		request("r.example/app", nil),
		request("docker.io/library/nginx:1@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
			&runtimeapi.AuthConfig{Username: "u", Password: "p", Auth: "a", ServerAddress: "s", IdentityToken: "i", RegistryToken: "r"}),
	} {
		data, err := proto.Marshal(req)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := parsePull(data)
		var req runtimeapi.PullImageRequest
		if proto.Unmarshal(data, &req) != nil {
			return // it may be read in part
		}
		if err != nil || got == nil {
			return
		}
		// A field that comes twice is merged by both.
		a := req.GetAuth()
		want := []string{a.GetUsername(), a.GetPassword(), a.GetAuth(), a.GetIdentityToken(), a.GetRegistryToken()}
		have := []string{got.auth.Username, got.auth.Password, got.auth.Auth, got.auth.IdentityToken, got.auth.RegistryToken}
		if diff := cmp.Diff(want, have); diff != "" {
			t.Error(diff)
		}
		if !strings.Contains(fmt.Sprint(got.repo), "/") {
			t.Errorf("repository %s", got.repo)
		}
	})
}
