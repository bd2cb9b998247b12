package nodeblocks

import (
	"cmp"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/brisk-project/brisk/api/v1alpha1"
)

// maxMessage bounds the message of an object in bytes.
const maxMessage = 500

// peerText returns a peer as [v1alpha1.AnnotationPeer] says.
func peerText(peer *v1alpha1.PeerStatus) string {
	return peer.ID + "@" + strings.Join(peer.Addresses, ",")
}

// fill makes an object say what a report does. What it says for others stays as it is.
func fill(object *v1alpha1.NodeBlocks, report Report, at time.Time) error {
	images := report.Images
	if len(images) > v1alpha1.MaxImages { // those with the most to offer
		images = slices.SortedFunc(slices.Values(images), func(a, b v1alpha1.ImageBlocks) int { return cmp.Compare(b.Cached, a.Cached) })
		images = images[:v1alpha1.MaxImages]
	}
	packed, err := v1alpha1.EncodeImages(images)
	if err != nil {
		return err
	}
	status := report.Status
	status.ObservedAt = metav1.NewTime(at.Truncate(time.Second))
	status.Images, status.ImageCount = packed, int32(len(images))
	status.Message = strings.ToValidUTF8(status.Message[:min(len(status.Message), maxMessage)], "")
	object.Status = status
	metav1.SetMetaDataLabel(&object.ObjectMeta, v1alpha1.LabelZone, status.Zone)
	if status.Peer == nil {
		delete(object.Annotations, v1alpha1.AnnotationPeer)
	} else {
		metav1.SetMetaDataAnnotation(&object.ObjectMeta, v1alpha1.AnnotationPeer, peerText(status.Peer))
	}
	// Who wrote which field says nothing, for one agent writes them all, and would take
	// a quarter of the object. An empty entry removes it.
	object.ManagedFields = []metav1.ManagedFieldsEntry{{}}
	return nil
}
