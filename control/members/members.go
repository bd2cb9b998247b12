// Package members finds the agents of a zone, which share blocks. Agents publish their
// addresses in NodeBlocks objects.
//
// The objects are listed, not watched. They change with every image that a node loads, and
// each change would be sent to each agent: at 5,000 nodes that is 500,000 messages a
// second. A list comes from the memory of the API server and contains only metadata. The
// longer it is, the less often it is requested.
package members

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/brisk-project/brisk/api/v1alpha1"
)

const (
	// perMember is added to the time until the next list for each member.
	perMember = 200 * time.Millisecond
	// defaultLeast and most are the shortest and the longest time between two lists.
	defaultLeast = 10 * time.Second
	most         = 2 * time.Minute
	// requestTimeout bounds a request to the API server.
	requestTimeout = 20 * time.Second
	// maxMember limits the published addresses of an agent, in bytes.
	maxMember = 2 << 10
)

// Lister lists the metadata of NodeBlocks objects. k8s.io/client-go/metadata implements it.
type Lister interface {
	List(ctx context.Context, opts metav1.ListOptions) (*metav1.PartialObjectMetadataList, error)
}

// Config configures a [Watcher].
type Config struct {
	Lister Lister
	// Zone returns the zone of the node, and whether it is known.
	Zone func() (zone string, known bool)
	// OnChange is called with all agents of the zone, including this one, when they have
	// changed. They are sorted; each is a peer ID, an @, and addresses separated by commas.
	// Other agents wrote these values, and they are not validated.
	OnChange func(members []string)
	// MinInterval is the minimum time between two lists; zero means 10 s. It grows by 0.2 s
	// per member, up to 2 min, and varies by a fifth.
	MinInterval time.Duration
	// Log may be nil.
	Log *slog.Logger
}

// Watcher lists the members again and again while Run runs.
type Watcher struct {
	cfg  Config
	log  *slog.Logger
	last []string
}

// New returns a watcher. It sends no request before Run.
func New(cfg Config) (*Watcher, error) {
	if cfg.Lister == nil || cfg.Zone == nil || cfg.OnChange == nil {
		return nil, errors.New("finding members: Objects, Zone and Set are required")
	}
	if cfg.MinInterval == 0 {
		cfg.MinInterval = defaultLeast
	}
	w := &Watcher{cfg: cfg, log: cfg.Log}
	if w.log == nil {
		w.log = slog.New(slog.DiscardHandler)
	}
	return w, nil
}

// Run keeps the members known until ctx ends. While the API server cannot be reached they
// are those that were known last. Run returns nil; it must be called once.
func (w *Watcher) Run(ctx context.Context) error {
	failing := false
	for {
		// The zone is known soon, once the node has been seen.
		pause := min(w.cfg.MinInterval, time.Second)
		if zone, known := w.cfg.Zone(); known {
			err := w.list(ctx, zone)
			if err != nil && !failing && ctx.Err() == nil {
				w.log.WarnContext(ctx, "the members of the zone cannot be listed; keeping the known ones", "members", len(w.last), "error", err)
			}
			failing = err != nil
			pause = min(w.cfg.MinInterval+perMember*time.Duration(len(w.last)), max(most, w.cfg.MinInterval))
		}
		const jitter = 0.2
		spread := 1 + jitter*(2*rand.Float64()-1) //nolint:gosec // nobody gains from guessing it
		select {
		case <-time.After(time.Duration(float64(pause) * spread)):
		case <-ctx.Done():
			return nil
		}
	}
}

// list requests the members, and calls Set if they have changed.
func (w *Watcher) list(ctx context.Context, zone string) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	list, err := w.cfg.Lister.List(ctx, metav1.ListOptions{
		LabelSelector:   labels.Set{v1alpha1.LabelZone: zone}.String(),
		ResourceVersion: "0", // what the API server has in memory
	})
	if err != nil {
		return err
	}
	var members []string
	for i := range list.Items {
		if member := list.Items[i].Annotations[v1alpha1.AnnotationPeer]; member != "" && len(member) <= maxMember {
			members = append(members, member)
		}
	}
	slices.Sort(members)
	if !slices.Equal(members, w.last) {
		w.last = members
		w.cfg.OnChange(slices.Clone(members))
		w.log.InfoContext(ctx, "the members of the zone have changed", "zone", zone, "members", len(members))
	}
	return nil
}
