package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/brisk-project/brisk/image/upkeep"
	"github.com/brisk-project/brisk/test/registrytest"
)

func TestListAndRemove(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	image, other := pushImage(t, reg, "team/app:v1"), pushImage(t, reg, "team/app:v2")
	repository := reg.Repository(t, "team/app").String()
	run(t, "convert", image)
	run(t, "convert", "--mode", "full", other)
	requireOutput(t, run(t, "ls", repository), "TAG", "v1", "index", "v2", "full", "1/1", " %")
	var list upkeep.Listing
	if err := json.Unmarshal([]byte(run(t, "ls", "-o", "json", repository)), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Tags) != 2 || list.Tags[0].Indexed != 1 || list.Tags[0].IndexSize == 0 || list.Tags[1].FullSize == 0 {
		t.Errorf("list %+v", list)
	}
	requireOutput(t, run(t, "ls", "-o", "yaml", repository), "repository: ", "- tag: v1")

	// The same image under the same layers: both tags list its index.
	got := finish(t, program(t, "rm", "--dry-run", image))
	requireOutput(t, got.stdout, "would remove", "tag", image+"_accelerated", "in all")
	reg.PutManifest(t, "team/app:latest", types.OCIManifestSchema1, reg.Manifest(t, "team/app:v1"))
	run(t, "convert", reg.Ref(t, "team/app:latest").String())
	if got := finish(t, program(t, "rm", image)); got.code == 0 {
		t.Error("what another tag lists was removed")
	} else {
		requireOutput(t, got.stderr, "is still listed by", "team/app:latest_accelerated", "--keep-shared")
	}
	requireOutput(t, run(t, "rm", "--keep-shared", image), "removed", "is kept: ")
	requireOutput(t, run(t, "rm", reg.Ref(t, "team/app:latest").String()), "removed", image+" is the same image")
	requireOutput(t, run(t, "rm", image), "nothing to remove")
	requireOutput(t, run(t, "rm", "-o", "json", other), `"kind": "image in full mode"`, `"freedBytes": `)
	if left := run(t, "ls", repository); strings.Contains(left, "index") || strings.Contains(left, "full") {
		t.Errorf("after removing all:\n%s", left)
	}
	run(t, "convert", image)
	run(t, "verify", image)
}

func TestCollect(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{Referrers: true})
	image := pushImage(t, reg, "team/app:v1")
	repository := reg.Repository(t, "team/app").String()
	run(t, "convert", image)
	list := writeFile(t, "list", []byte(filePath("1")))
	run(t, "trace", "push", "--command", "one", image, list)
	run(t, "trace", "push", "--command", "two", image, list)
	requireOutput(t, run(t, "gc", repository), "nothing to remove", "kept: start-up artifact", "old")
	requireOutput(t, run(t, "gc", "--grace", "0", repository), "would remove", "superseded by sha256:", "--yes removes it")
	requireOutput(t, run(t, "gc", "--grace", "0", "--yes", repository), "removed", "start-up artifact")
	requireOutput(t, run(t, "gc", "--grace", "0", "-o", "yaml", repository), "removed: []")
	requireOutput(t, run(t, "trace", "show", image), "recorded", filePath("1"))
	if err := deleteManifest(t, reg, "team/app", "v1"); err != nil {
		t.Fatal(err)
	}
	requireOutput(t, run(t, "gc", repository), "kept: tag", "the tag v1 is gone")
	reg.Inject(registrytest.Rule{Fault: registrytest.Status(http.StatusMethodNotAllowed), Match: func(r *http.Request) bool { return r.Method == http.MethodDelete }})
	got := finish(t, program(t, "gc", "--deleted-tags", "--yes", repository))
	if got.code == 0 {
		t.Error("a registry that deletes nothing")
	}
	requireOutput(t, got.stderr, "does not allow to delete")
	reg.ClearFaults()
	requireOutput(t, run(t, "gc", "--deleted-tags", "--yes", repository), "the tag v1 is gone")
	for _, args := range [][]string{{"ls", image}, {"gc", image}, {"gc", repository + "@sha256:" + strings.Repeat("0", 64)}} {
		if got := finish(t, program(t, args...)); got.code == 0 || !strings.Contains(got.stderr, "name its repository") {
			t.Errorf("%v: %d, %s", args, got.code, got.stderr)
		}
	}
}

// deleteManifest deletes a tag or digest over the API.
func deleteManifest(t *testing.T, reg *registrytest.Registry, repository, reference string) error {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, "http://"+reg.Addr()+"/v2/"+repository+"/manifests/"+reference, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	http.DefaultClient.CloseIdleConnections()
	return resp.Body.Close()
}
