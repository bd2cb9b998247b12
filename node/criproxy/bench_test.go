package criproxy

import (
	"strings"
	"testing"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What a call costs through the proxy and without it: a short one, a pull, and the
// list of the containers of a full node.
func BenchmarkCall(b *testing.B) {
	s := newSetup(b, Config{})
	list := &runtimeapi.ListImagesRequest{Filter: &runtimeapi.ImageFilter{Image: &runtimeapi.ImageSpec{Image: strings.Repeat("x", 200_000)}}}
	pull := request("r.example/team/app:v1", &runtimeapi.AuthConfig{Username: "u", Password: strings.Repeat("p", 2000)})
	for name, conn := range map[string]*grpc.ClientConn{"direct": s.direct, "proxied": s.conn} {
		runtimes, images := runtimeapi.NewRuntimeServiceClient(conn), runtimeapi.NewImageServiceClient(conn)
		for what, call := range map[string]func() error{
			"version": func() error { _, err := runtimes.Version(b.Context(), &runtimeapi.VersionRequest{}); return err },
			"pull":    func() error { _, err := images.PullImage(b.Context(), pull); return err },
			"200kB":   func() error { _, err := images.ListImages(b.Context(), list); return err },
		} {
			b.Run(what+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if err := call(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
