package nodeblocks_test

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/brisk-project/brisk/api/compat"
	"github.com/brisk-project/brisk/api/v1alpha1"
	"github.com/brisk-project/brisk/control/members"
	"github.com/brisk-project/brisk/control/nodeblocks"
	"github.com/brisk-project/brisk/test/link"
)

// testDefinition holds what the API server refuses.
func (c *cluster) testDefinition(t *testing.T) {
	type s = v1alpha1.NodeBlocksStatus
	for name, test := range map[string]struct {
		edit func(*s)
		says string
	}{
		"good":           {func(s *s) { s.ImageCount, s.Images = 1, []byte{0xfb, 0xff, 0xbf} }, ""},
		"free":           {func(s *s) { s.Cache.FreeBytes = s.Cache.CapacityBytes + 1 }, "freeBytes must be at most capacityBytes"},
		"negative":       {func(s *s) { s.Cache.FreeBytes = -1 }, "freeBytes"},
		"many":           {func(s *s) { s.ImageCount, s.Images = 1001, []byte{1} }, "imageCount"},
		"long":           {func(s *s) { s.ImageCount, s.Images = 1, make([]byte, 10000) }, "images"},
		"backend":        {func(s *s) { s.Backend = "zfs" }, "backend"},
		"peer":           {func(s *s) { s.Peer.ID = "somebody@somewhere" }, "peer.id"},
		"address":        {func(s *s) { s.Peer.Addresses = []string{"10.0.0.1:4077"} }, "peer.addresses"},
		"many addresses": {func(s *s) { s.Peer.Addresses = slices.Repeat([]string{"/ip4/10.0.0.1/tcp/4077"}, 9) }, "peer.addresses"},
		"message":        {func(s *s) { s.Message = strings.Repeat("x", 513) }, "message"},
	} {
		object := v1alpha1.NodeBlocks{ObjectMeta: metav1.ObjectMeta{Name: "definition"}, Status: healthy().report.Status}
		object.Status.ObservedAt = metav1.Now()
		test.edit(&object.Status)
		_, err := c.objects.Create(t.Context(), &object, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if test.says == "" && err != nil || test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// testTable holds what kubectl get prints.
func (c *cluster) testTable(t *testing.T) {
	object := v1alpha1.NodeBlocks{ObjectMeta: metav1.ObjectMeta{Name: "table"}, Status: healthy().report.Status}
	object.Status.ObservedAt, object.Status.Zone = metav1.Now(), "zone-a"
	object.Status.Cache.Summarize(5 << 30)
	if _, err := c.objects.Create(t.Context(), &object, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	content, err := c.core.Discovery().RESTClient().Get().AbsPath("/apis/brisk.dev/v1alpha1/nodeblocks/table").
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var table metav1.Table
	if err := json.Unmarshal(content, &table); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for i, column := range table.ColumnDefinitions {
		got[column.Name] = fmt.Sprint(table.Rows[0].Cells[i])
	}
	for _, age := range []string{"Age", "Reported"} {
		if !strings.HasSuffix(got[age], "s") {
			t.Errorf("%s is %q", age, got[age])
		}
		delete(got, age)
	}
	want := map[string]string{
		"Name": "table", "Healthy": "true", "Images": "0", "Cached": "5.0 of 20.0 GiB", "Backend": "erofs", "Zone": "zone-a",
		"Version": "v0.1.0", "Message": "<nil>",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// manyImages are those of a node that has many.
func manyImages(n int) []v1alpha1.ImageBlocks {
	random := rand.New(rand.NewPCG(1, 1))
	images := make([]v1alpha1.ImageBlocks, n)
	for i := range images {
		images[i] = v1alpha1.ImageBlocks{
			Key:            v1alpha1.ImageKey(random.Uint64()) & v1alpha1.MaxImageKey,
			StartupMissing: random.Int64N(1 << 30), Cached: random.Int64N(1 << 30),
		}
	}
	return images
}

// stored returns an object as it is stored, nil if it is not there.
func (c *cluster) stored(t *testing.T, name string) *v1alpha1.NodeBlocks {
	t.Helper()
	object, err := c.objects.Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		return nil
	}
	return object
}

func (c *cluster) testPublisher(t *testing.T) {
	const name = "ip-10-111-222-233.eu-central-1.compute.internal"
	// An agent before this one was killed.
	stale := map[string]string{"topology.kubernetes.io/zone": "eu-central-1a", "kept": "label"}
	for label, value := range compat.NodeLabels(true) {
		stale[label] = *value
	}
	node := c.node(t, name, stale)
	known := healthy()
	known.change(func(r *nodeblocks.Report) { r.Status.Healthy, r.Status.Message = false, "not yet" })
	stop := publish(t, c.Admin, name, known)
	labels := func(healthy bool) func() bool {
		return func() bool {
			found := c.labelsOf(t, name)
			return compat.HasNodeLabels(found, healthy) && found["kept"] == "label"
		}
	}
	await(t, "stale labels being removed", labels(false))
	await(t, "the first report", func() bool { o := c.stored(t, name); return o != nil && o.Status.Message == "not yet" })

	known.change(func(r *nodeblocks.Report) {
		r.Status.Healthy, r.Status.Message, r.Images = true, "", manyImages(200)
		r.Status.Cache.Summarize(10 << 30)
	})
	await(t, "labels", labels(true))
	await(t, "images", func() bool { return c.stored(t, name).Status.ImageCount == 200 })
	object := c.stored(t, name)
	if images, err := v1alpha1.DecodeImages(object.Status.Images); err != nil || len(images) != 200 {
		t.Errorf("%d images, %v", len(images), err)
	}
	owner := []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: name, UID: node.UID}}
	if diff := cmp.Diff(owner, object.OwnerReferences); diff != "" {
		t.Error(diff)
	}
	if object.Labels[v1alpha1.LabelZone] != "eu-central-1a" || object.Status.Zone != "eu-central-1a" {
		t.Errorf("zone %q, %q", object.Labels, object.Status.Zone)
	}
	content, err := c.core.Discovery().RESTClient().Get().AbsPath("/apis/brisk.dev/v1alpha1/nodeblocks", name).DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the object has %d bytes", len(content))
	if len(content) > 3000 || len(object.ManagedFields) > 0 {
		t.Errorf("the object has %d bytes, managed fields %v", len(content), object.ManagedFields)
	}

	c.annotate(t, name, `"disabled"`)
	await(t, "the node being disabled", func() bool {
		o := c.stored(t, name)
		return labels(false)() && !o.Status.Healthy && strings.Contains(o.Status.Message, "brisk.dev/acceleration")
	})
	c.annotate(t, name, `null`)
	await(t, "the node being enabled", func() bool { return labels(true)() && c.stored(t, name).Status.Healthy })

	// Somebody removes the object.
	if err := c.objects.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	known.change(func(r *nodeblocks.Report) { r.Images = nil })
	await(t, "the object being there again", func() bool { o := c.stored(t, name); return o != nil && o.Status.ImageCount == 0 })
	stop()
	if object := c.stored(t, name); !labels(false)() || object.Status.Healthy || object.Status.Peer != nil {
		t.Errorf("after the end: labels %v, object %+v", c.labelsOf(t, name), object.Status)
	}
}

// annotate sets the annotation of a node that disables it.
func (c *cluster) annotate(t *testing.T, node, value string) {
	t.Helper()
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%s}}}`, compat.Acceleration, value)
	_, err := c.core.CoreV1().Nodes().Patch(t.Context(), node, "application/merge-patch+json", []byte(patch), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// far returns a configuration that reaches the API server over a link.
func (c *cluster) far(t *testing.T) (*rest.Config, *link.Link) {
	t.Helper()
	over := link.New(t, strings.TrimPrefix(c.Admin.Host, "https://"), link.Config{})
	cfg := rest.CopyConfig(c.Admin)
	cfg.Host = "https://" + over.Addr
	return cfg, over
}

func heal(l *link.Link) { l.FailAfter(math.MaxInt64, true) }

// testLostAPIServer breaks all connections, also new ones, and then no more.
func (c *cluster) testLostAPIServer(t *testing.T) {
	const name = "lost"
	c.node(t, name, nil)
	known := healthy()
	cfg, over := c.far(t)
	publish(t, cfg, name, known)
	await(t, "the first report", func() bool { return c.stored(t, name) != nil })
	over.FailAfter(0, true)
	known.change(func(r *nodeblocks.Report) { r.Images = manyImages(3) })
	// Requests may arrive, but not their answers: what was written is not known.
	select {
	case <-time.After(time.Second):
	case <-t.Context().Done():
	}
	known.change(func(r *nodeblocks.Report) { r.Images = manyImages(2) })
	heal(over)
	await(t, "the report after that", func() bool { return c.stored(t, name).Status.ImageCount == 2 })
}

func (c *cluster) testMembers(t *testing.T) {
	cfg, over := c.far(t)
	told := make(chan []string, 10)
	watcher, err := members.New(members.Config{
		Lister:   metadataOf(t, cfg).Resource(v1alpha1.GroupVersion.WithResource("nodeblocks")),
		Zone:     func() (string, bool) { return "members-a", true },
		OnChange: func(m []string) { told <- m }, MinInterval: 50 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- watcher.Run(t.Context()) }()
	t.Cleanup(func() {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	peers := make(map[string]string)
	add := func(name, zone string) {
		c.node(t, name, map[string]string{"topology.kubernetes.io/zone": zone})
		known := healthy()
		peer := known.report.Status.Peer
		peer.ID = peer.ID[:len(peer.ID)-1] + name[len(name)-1:]
		peers[name] = peer.ID + "@" + peer.Addresses[0]
		publish(t, c.Admin, name, known)
	}
	expect := func(names ...string) {
		t.Helper()
		var want []string
		for _, name := range names {
			want = append(want, peers[name])
		}
		slices.Sort(want)
		deadline := time.After(patience)
		for {
			select {
			case got := <-told:
				if slices.Equal(got, want) {
					return
				}
			case <-deadline:
				t.Fatalf("the members are never %q", names)
			}
		}
	}
	add("members-1", "members-a")
	expect("members-1")
	add("members-2", "members-b")
	add("members-3", "members-a")
	expect("members-1", "members-3")
	over.FailAfter(0, true)
	if err := c.objects.Delete(t.Context(), "members-1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-told:
		t.Errorf("without an API server the members are %q", got)
	case <-time.After(500 * time.Millisecond):
	}
	heal(over)
	expect("members-3")
}
