package main

import (
	"encoding/json"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/brisk-project/brisk/image/startup/artifact"
	"github.com/brisk-project/brisk/test/registrytest"
)

// shownListOf returns what "brisk prefetch show" prints.
func shownListOf(t *testing.T, args ...string) shownList {
	t.Helper()
	var shown shownList
	if err := json.Unmarshal([]byte(run(t, append([]string{"prefetch", "show", "-o", "json"}, args...)...)), &shown); err != nil {
		t.Fatal(err)
	}
	return shown
}

// setList sets a list and returns the artifacts that the program says it has pushed.
func setList(t *testing.T, args ...string) []*artifact.UpdateResult {
	t.Helper()
	var set renewedLists
	if err := json.Unmarshal([]byte(run(t, append([]string{"prefetch", "set", "-o", "json"}, args...)...)), &set); err != nil {
		t.Fatal(err)
	}
	return set.Startup
}

// TestPrefetch sets, shows, replaces and clears a list, beside a trace that is pushed in between.
func TestPrefetch(t *testing.T) {
	for _, referrers := range []bool{false, true} {
		reg := registrytest.New(t, registrytest.Config{Referrers: referrers})
		image := pushImage(t, reg, "app:v1")
		list := writeFile(t, "list", []byte("# of tests\r\n/"+filePath("2")+"\r\n/none\r\n"))
		if got := finish(t, program(t, "prefetch", "set", image, list)); got.code == 0 || !strings.Contains(got.stderr, `"brisk convert" makes one`) {
			t.Errorf("without an index: %+v", got)
		}
		run(t, "convert", image)
		requireOutput(t, run(t, "prefetch", "clear", image), "has no prefetch list")
		for args, want := range map[string]string{
			"show":                  "has no prefetch list; set one with",
			"set --strict " + list:  `line 3: "/none": the image has no such file`,
			"set " + list + ".none": "no such file or directory",
			"set " + writeFile(t, "relative", []byte("a")): `line 1: "a" is no absolute path`,
			"set " + writeFile(t, "empty", []byte("#")):    "the prefetch list has no path",
			"set " + list + " --platform x":                "platform",
		} {
			fields := strings.Fields(args)
			if got := finish(t, program(t, append([]string{"prefetch", fields[0], image}, fields[1:]...)...)); got.code == 0 || !strings.Contains(got.stderr, want) {
				t.Errorf("%s: %+v", args, got)
			}
		}
		if got := startupOf(t, image); got != nil {
			t.Errorf("what failed has pushed %+v", got)
		}

		requireOutput(t, run(t, "prefetch", "set", image, list), "linux/amd64  start-up artifact ", "prefetch list of 1 files, 1.0 MiB",
			`warning: line 3: "/none": the image has no such file`)
		if got := startupOf(t, image); got == nil || got.List == nil || got.Bundle != nil || len(got.Traces) != 1 || !got.Traces[0].List {
			t.Fatalf("referrers %v: %+v", referrers, got)
		}
		if set := setList(t, image, list); len(set) != 1 || !set[0].Unchanged || set[0].Digest != startupOf(t, image).Digest {
			t.Errorf("the same list: %+v", set[0])
		}
		requireOutput(t, run(t, "trace", "show", image), "prefetch list", filePath("2"))

		// Traces that are pushed leave the list alone, and the other way round.
		run(t, "trace", "push", image, writeFile(t, "trace", []byte("/"+filePath("1"))), "--command", "app")
		requireOutput(t, run(t, "trace", "show", image), "prefetch list, then recorded, app", filePath("1"), filePath("2"), "2.0 MiB")
		exported := writeFile(t, "exported", nil)
		run(t, "trace", "export", image, "-o", exported)
		if n := readTrace(t, exported).Trace.Bytes(); n > 1<<20+8192 {
			t.Errorf("%d bytes were exported, with the list", n)
		}
		shown := shownListOf(t, image)
		if len(shown.Lines) != 2 || shown.Files != 1 || shown.Bytes != 1<<20 || shown.Lines[0].Number != 2 || shown.Lines[1].Problem == "" {
			t.Errorf("shown: %+v", shown)
		}
		requireOutput(t, run(t, "prefetch", "show", image), "1 files, 1.0 MiB", `"/none": the image has no such file`)
		if got := run(t, "prefetch", "show", "--raw", image); got != "# of tests\r\n/"+filePath("2")+"\r\n/none\r\n" {
			t.Errorf("the list: %q", got)
		}
		set := program(t, "prefetch", "set", "--bundle", "--strict", image, "-")
		set.Stdin = strings.NewReader("/data-1/\n/**/file-*\n")
		requireOutput(t, finish(t, set).stdout, "with a bundle of ", "prefetch list of 2 files, 2.0 MiB")
		got := startupOf(t, image)
		if got.Bundle == nil || len(got.Traces) != 2 || !got.Traces[0].List || got.Traces[1].Command != "app" {
			t.Errorf("with a bundle: %+v", got)
		}
		run(t, "prefetch", "clear", image)
		if cleared := startupOf(t, image); cleared.List != nil || cleared.Bundle == nil || cleared.Bundle.Digest == got.Bundle.Digest || len(cleared.Traces) != 1 || cleared.Traces[0].List {
			t.Errorf("cleared: %+v", cleared)
		}
		requireOutput(t, run(t, "trace", "show", image), "recorded, app", filePath("1"), "1.0 MiB")
	}
}

// TestPrefetchAlone clears a list that was all that an artifact had. The prediction counts again.
func TestPrefetchAlone(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{Referrers: true})
	image := pushImage(t, reg, "app:v1")
	run(t, "convert", image)
	list := writeFile(t, "list", []byte("/**\n"))
	setList(t, image, list)
	if got := finish(t, program(t, "trace", "export", image, "-o", "-")); got.code == 0 || !strings.Contains(got.stderr, "brisk prefetch show --raw") {
		t.Errorf("export of a list: %+v", got)
	}
	requireOutput(t, run(t, "prefetch", "clear", image), "start-up artifact ")
	if got := finish(t, program(t, "trace", "show", image)); got.code == 0 || !strings.Contains(got.stderr, "no trace in the registry") {
		t.Errorf("after clear: %+v", got)
	}
	if set := setList(t, image, list, "--bundle"); len(set) != 1 || set[0].Bundle == 0 || set[0].Prefetch.Files != 2 {
		t.Errorf("set again: %+v", set)
	}
}

// TestConvertWithAList sets a list at the conversion of several platforms, and converts other images under
// the tag, for which the list is resolved anew.
func TestConvertWithAList(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	layer := func(seed uint64) registrytest.Layer {
		return registrytest.Layer{Tar: registrytest.Tar(t, registrytest.Files(seed, 1, 1<<20)...), Level: 1}
	}
	push := func(other uint64) string {
		var images []registrytest.Image
		for _, p := range []struct {
			arch string
			seed uint64
		}{{"amd64", 1}, {"arm64", other}} {
			images = append(images, registrytest.Image{Platform: v1.Platform{OS: "linux", Architecture: p.arch}, Layers: []registrytest.Layer{layer(p.seed)}})
		}
		reg.PushIndex(t, "app:v1", images...)
		return reg.Ref(t, "app:v1").String()
	}
	image := push(2)
	list := writeFile(t, "list", []byte("/data-1/\n/data-2/\n"))
	var converted conversionReport
	if err := json.Unmarshal([]byte(run(t, "convert", "-o", "json", "--prefetch", list, "--strict", image)), &converted); err != nil {
		t.Fatal(err)
	}
	if len(converted.Startup) != 2 {
		t.Fatalf("pushed %+v", converted.Startup)
	}
	for _, s := range converted.Startup {
		if s.Prefetch == nil || s.Prefetch.Files != 1 || len(s.Prefetch.Unmatched) != 1 || s.Trace < 1<<20 {
			t.Errorf("%s: %+v", s.Platform, s)
		}
	}
	if again := convertAs(t, image); again != nil {
		t.Errorf("nothing has changed, but %+v was pushed", again)
	}
	bad := finish(t, program(t, "convert", "--prefetch", writeFile(t, "bad", []byte("/data-3/")), "--strict", image))
	if bad.code == 0 || !strings.Contains(bad.stderr, `line 1: "/data-3/": the image has no such file`) {
		t.Errorf("a line that matches nothing: %+v", bad)
	}
	image = push(3)
	if err := json.Unmarshal([]byte(run(t, "convert", "-o", "json", image)), &converted); err != nil {
		t.Fatal(err)
	}
	for _, platform := range []string{"linux/amd64", "linux/arm64"} {
		shown := shownListOf(t, "--platform", platform, image)
		if want := map[string]int{"linux/amd64": 1, "linux/arm64": 0}[platform]; shown.Files != want || shown.List != "/data-1/\n/data-2/\n" {
			t.Errorf("%s after the tag has moved: %+v", platform, shown)
		}
	}
}

// TestPrefetchOfFiles sets the list of an image in files.
func TestPrefetchOfFiles(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	source := pushImage(t, reg, "app:v1")
	image := "oci:" + t.TempDir() + ":v1"
	list := writeFile(t, "list", []byte("/"+filePath("1")))
	requireOutput(t, run(t, "convert", "--prefetch", list, source, image), "prefetch list of 1 files, 1.0 MiB")
	if shown := shownListOf(t, image); shown.Image != image || shown.Files != 1 {
		t.Errorf("shown: %+v", shown)
	}
	requireOutput(t, run(t, "prefetch", "set", image, writeFile(t, "list", []byte("/**"))), "prefetch list of 2 files, 2.0 MiB")
	if shown := shownListOf(t, image); shown.Files != 2 {
		t.Errorf("shown: %+v", shown)
	}
	back := reg.Ref(t, "back:v1").String()
	run(t, "copy", image, back)
	if shown := shownListOf(t, back); shown.Files != 2 {
		t.Errorf("copied back: %+v", shown)
	}
}
