package version

import (
	"runtime/debug"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDescribe(t *testing.T) {
	build := &debug.BuildInfo{GoVersion: "go1.26.6", Main: debug.Module{Version: "v1.2.3"}, Settings: []debug.BuildSetting{
		{Key: "vcs.revision", Value: "0123abc"}, {Key: "vcs.time", Value: "2026-11-27T10:00:00Z"}, {Key: "vcs.modified", Value: "true"},
	}}
	got := describe("brisk", build)
	want := Info{Program: "brisk", Version: "v1.2.3", Commit: "0123abc, modified", Date: "2026-11-27T10:00:00Z", Go: "go1.26.6", Platform: got.Platform}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	got = describe("brisk", &debug.BuildInfo{Main: debug.Module{Version: "(devel)"}})
	if got.Version != unknown || got.Commit != unknown || got.Date != unknown || !strings.HasPrefix(got.Go, "go1.") {
		t.Errorf("of a build that says nothing: %+v", got)
	}
}

func TestLinkerHasTheLastWord(t *testing.T) {
	defer func() { release, commit, date = "", "", "" }()
	release, commit, date = "v9", "ffff", "2030-01-01T00:00:00Z"
	got := describe("brisk", &debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}})
	if got.Version != "v9" || got.Commit != "ffff" || got.Date != "2030-01-01T00:00:00Z" {
		t.Errorf("%+v", got)
	}
}

func TestWrite(t *testing.T) {
	info := Info{Program: "brisk-node", Version: "v1", Commit: "c", Date: "d", Go: "go1", Platform: "linux/amd64", Kernel: "6.12.1"}
	var text strings.Builder
	if err := info.Write(&text); err != nil {
		t.Fatal(err)
	}
	want := "brisk-node v1\ncommit:   c\ndate:     d\ngo:       go1\nplatform: linux/amd64\nkernel:   6.12.1\n"
	if text.String() != want {
		t.Errorf("%q", text.String())
	}
}
