package v1alpha1_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/brisk-project/brisk/api/v1alpha1"
)

// maxObject is how long the object of a node with 200 images may be in JSON, in bytes.
const maxObject = 3000

// maxStarts is how many bytes start-ups may add.
const maxStarts = 700

// TestObjectSize holds the size of the whole object as the API server stores it.
func TestObjectSize(t *testing.T) {
	const name, uid = "ip-10-111-222-233.eu-central-1.compute.internal", "01234567-89ab-cdef-0123-456789abcdef"
	images, err := v1alpha1.EncodeImages(nodeImages(1, 200))
	if err != nil {
		t.Fatal(err)
	}
	now := metav1.NewTime(time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC))
	peer, address := "12D3KooW"+strings.Repeat("x", 44), "/ip4/10.111.222.233/tcp/4077"
	object := v1alpha1.NodeBlocks{
		TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "NodeBlocks"},
		ObjectMeta: metav1.ObjectMeta{
			Name: name, UID: types.UID(uid), ResourceVersion: "12345678901", Generation: 123456, CreationTimestamp: now,
			Labels:          map[string]string{v1alpha1.LabelZone: "eu-central-1a"},
			Annotations:     map[string]string{v1alpha1.AnnotationPeer: peer + "@" + address},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: corev1.SchemeGroupVersion.String(), Kind: "Node", Name: name, UID: types.UID(uid)}},
		},
		Status: v1alpha1.NodeBlocksStatus{
			ObservedAt: now, Healthy: true, Zone: "eu-central-1a", Backend: "erofs", Version: "v0.12.345",
			Cache:     v1alpha1.CacheStatus{CapacityBytes: 1 << 40, FreeBytes: 1<<40 - 1},
			Bandwidth: v1alpha1.BandwidthStatus{Peers: 12345678901, Registry: 1234567890},
			Peer:      &v1alpha1.PeerStatus{ID: peer, Addresses: []string{address}},
			Images:    images, ImageCount: 200,
		},
	}
	object.Status.Cache.Summarize(1<<40 - 1)
	encoded, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes, %d of them images", len(encoded), len(images))
	if len(encoded) > maxObject {
		t.Errorf("%d bytes are more than %d", len(encoded), maxObject)
	}
	for range v1alpha1.MaxStarts {
		object.Status.Starts = append(object.Status.Starts, v1alpha1.StartStatus{
			Image: "sha256:" + strings.Repeat("0", 64), FinishedAt: metav1.NewMicroTime(now.Time), Milliseconds: 123456,
		})
	}
	if encoded, err = json.Marshal(object); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes with %d start-ups, which are in one report only", len(encoded), v1alpha1.MaxStarts)
	if len(encoded) > maxObject+maxStarts {
		t.Errorf("%d bytes are more than %d", len(encoded), maxObject+maxStarts)
	}
}

func TestSummarize(t *testing.T) {
	for want, size := range map[string][2]int64{ // capacity and cached
		"0.0 of 0.0 B":         {},
		"0.5 of 20.0 GiB":      {20 << 30, 512 << 20},
		"1024.0 of 1024.0 TiB": {1<<50 - 1, 1<<50 - 1},
		"8.0 of 8.0 EiB":       {1<<63 - 1, 1<<63 - 1},
	} {
		cache := v1alpha1.CacheStatus{CapacityBytes: size[0]}
		if cache.Summarize(size[1]); cache.Summary != want {
			t.Errorf("%q instead of %q", cache.Summary, want)
		}
	}
}
