package main

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/test/mountns"
	"github.com/brisk-project/brisk/test/registrytest"
)

func TestConvertInspectVerify(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	image := pushImage(t, reg, "app:v1")

	requireOutput(t, run(t, "convert", image), "read in", "linux/amd64  index sha256:", image+"_accelerated")
	requireOutput(t, run(t, "convert", image), "had an index")
	var converted convert.Result
	if err := json.Unmarshal([]byte(run(t, "convert", "-o", "json", "--reindex", "--tag", image+"-fast", image)), &converted); err != nil {
		t.Fatal(err)
	}
	if len(converted.Layers) != 2 || converted.Layers[0].Reused || converted.Tag != image+"-fast" {
		t.Errorf("conversion %+v", converted)
	}

	requireOutput(t, run(t, "inspect", image), image, "% of compressed", "COMPRESSED  UNCOMPRESSED", "KiB", "gzip", "zstd", "any part")
	var seen inspection
	if err := json.Unmarshal([]byte(run(t, "inspect", "-o", "json", image)), &seen); err != nil {
		t.Fatal(err)
	}
	var stored, stream, index int64
	for _, l := range seen.Layers {
		stored, stream, index = stored+l.StoredSize, stream+l.StreamSize, index+l.IndexSize
		if !l.Seekable || l.Frames < 1 || l.FrameSize > l.StreamSize || l.Entries != 2 {
			t.Errorf("layer %+v", l)
		}
	}
	if len(seen.Layers) != 2 || seen.StoredSize != stored || seen.StreamSize != stream || seen.IndexSize != index ||
		seen.Platform != "linux/amd64" || index == 0 || stream < 2<<20 {
		t.Errorf("inspection %+v", seen)
	}
	requireOutput(t, run(t, "verify", image), "2 layers, 10 blocks, every digest is right")
	requireOutput(t, run(t, "verify", image+"_accelerated"), "every digest is right")
}

func TestVerifyNamesWhatIsWrong(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	image := pushImage(t, reg, "app:v1")
	run(t, "convert", image)
	var seen inspection
	if err := json.Unmarshal([]byte(run(t, "inspect", "-o", "json", image)), &seen); err != nil {
		t.Fatal(err)
	}
	for _, layer := range seen.Layers {
		t.Run(layer.Compression, func(t *testing.T) {
			reg.Inject(registrytest.Rule{
				Fault: registrytest.Flip(int(layer.StoredSize / 2)),
				Match: func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, layer.Digest) },
			})
			defer reg.ClearFaults()
			got := finish(t, program(t, "verify", image))
			if got.code != 1 || got.stdout != "" {
				t.Errorf("exit code %d, output %q", got.code, got.stdout)
			}
			requireOutput(t, got.stderr, "verifying "+image, "layer "+layer.Digest, "from registry", "corrupt")
			if !regexp.MustCompile(`/\d+-\d+`).MatchString(got.stderr) {
				t.Errorf("no block is named in: %s", got.stderr)
			}
		})
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	image := pushImage(t, reg, "app:v1")
	reg.PushIndex(t, "multi:v1", registrytest.Image{}, registrytest.Image{Platform: v1.Platform{OS: "linux", Architecture: "arm64"}})
	dir := t.TempDir()
	gone := registrytest.New(t, registrytest.Config{})
	away := pushImage(t, gone, "app:v1")
	if err := gone.Pause(); err != nil {
		t.Fatal(err)
	}
	missing := reg.Addr() + "/missing:v1"
	for _, tt := range []struct {
		name string
		args []string
		want []string
	}{
		{"inspect, no image", []string{"inspect", missing}, []string{missing, "manifest unknown"}},
		{"convert, no image", []string{"convert", missing}, []string{"converting " + missing, "manifest unknown"}},
		{"verify, no image", []string{"verify", missing}, []string{missing, "manifest unknown"}},
		{"mount, no image", []string{"mount", "--dir", dir + "/node", missing, dir}, []string{missing, "manifest unknown"}},
		{"inspect, no index", []string{"inspect", image}, []string{image, `"brisk convert"`}},
		{"verify, no index", []string{"verify", image}, []string{image, `"brisk convert"`}},
		{"mount, no index", []string{"mount", "--dir", dir + "/node", image, dir}, []string{image, `"brisk convert"`}},
		{"inspect, no registry", []string{"inspect", away}, []string{away, "connection refused"}},
		{"convert, no registry", []string{"convert", away}, []string{"converting " + away, "connection refused"}},
		{"mount, no registry", []string{"mount", "--dir", dir + "/node", away, dir}, []string{away, "connection refused"}},
		{"no reference", []string{"inspect", "Not A Reference"}, []string{`"Not A Reference"`}},
		{"unknown format", []string{"inspect", "-o", "xml", image}, []string{`"xml"`, "table", "json"}},
		{"tag with a digest", []string{"convert", "--tag", "ab@sha256:" + strings.Repeat("0", 64), image}, []string{"--tag", "not a tag"}},
		{"platform", []string{"inspect", "--platform", "a/b/c/d", image}, []string{"--platform"}},
		{"platform that the image lacks", []string{"inspect", "--platform", "linux/s390x", reg.Addr() + "/multi:v1"}, []string{"linux/s390x", "linux/amd64"}},
		{"mount on nothing", []string{"mount", image, dir + "/missing"}, []string{dir + "/missing", "not a directory"}},
		{"mount with an unknown backend", []string{"mount", "--dir", dir + "/node", "--backend", "nfs", image, dir}, []string{`"nfs"`, "erofs", "loop", "tree"}},
		{"mount with a bad peer", []string{"mount", "--dir", dir + "/node", "--peer", "nobody", image, dir}, []string{`"nobody"`}},
		{"mount with a bad size", []string{"mount", "--cache-size", "much", image, dir}, []string{"--cache-size", `"much"`}},
		{"umount without a node", []string{"umount", "--dir", dir + "/node", dir}, []string{"no brisk process serves", "--dir"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := finish(t, program(t, tt.args...))
			if got.code != 1 || got.stdout != "" {
				t.Errorf("exit code %d, output %q", got.code, got.stdout)
			}
			requireOutput(t, got.stderr, append(tt.want, "brisk: ")...)
			if lines := strings.Count(got.stderr, "\n"); lines != 1 {
				t.Errorf("%d lines, want one: %s", lines, got.stderr)
			}
		})
	}
	mountns.RequireUnused(t, dir)
}

func TestMountNeedsRoot(t *testing.T) {
	cmd := program(t, "mount", "--dir", t.TempDir(), "127.0.0.1:1/app:v1", t.TempDir())
	asOrdinaryUser(cmd)
	got := finish(t, cmd)
	if got.code != 1 {
		t.Errorf("exit code %d", got.code)
	}
	requireOutput(t, got.stderr, "mounting needs root")
}
