package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/node/agent"
)

const (
	// kubeletNamespace is the namespace of containerd that kubelet's images are in.
	kubeletNamespace = "k8s.io"
	// targetsEvery is the time between two looks at what names images were pulled under,
	// while nothing else is known to have changed.
	targetsEvery = time.Minute
	// targetsTimeout bounds one look.
	targetsTimeout = time.Second
	// pullGrace is how long an image that containerd does not have may still be one that is
	// being pulled.
	pullGrace = 30 * time.Second
)

// imageDigests knows under which digests images were pulled, which is what pods and the status
// of nodes call them: that of the image index for one of several platforms. The agent
// knows the manifest of its platform only.
type imageDigests struct {
	// list returns the digests by manifest; nil without a containerd.
	list func(context.Context) (map[string][]string, error)
	log  *slog.Logger

	images map[block.Digest]*digestsOfImage
	asked  time.Time
	failed bool
}

type digestsOfImage struct {
	seen    time.Time // first
	targets []string  // empty until they are known
}

// update takes note of which images there are, and asks for their digests if that is time.
func (p *imageDigests) update(ctx context.Context, at time.Time, held []agent.ImageInventory) {
	if p.list == nil {
		return
	}
	images := make(map[block.Digest]*digestsOfImage, len(held))
	pause := targetsEvery
	for _, image := range held {
		known := p.images[image.Manifest]
		if known == nil {
			known = &digestsOfImage{seen: at}
		}
		if len(known.targets) == 0 && at.Sub(known.seen) < pullGrace {
			pause = 0
		}
		images[image.Manifest] = known
	}
	p.images = images
	if p.failed {
		pause = healthEvery
	}
	if len(held) == 0 || !p.asked.IsZero() && at.Sub(p.asked) < pause {
		return
	}
	p.asked = at
	ctx, cancel := context.WithTimeout(ctx, targetsTimeout)
	defer cancel()
	targets, err := p.list(ctx)
	if p.failed = err != nil; p.failed {
		p.log.DebugContext(ctx, "the digests of pulled images are unknown", "error", err)
		return
	}
	for manifest, image := range images {
		if found := targets[manifest.String()]; len(found) > 0 {
			image.targets = found
		}
	}
}

// digests returns those that an image is called by, as sha256:hex. It has none while it is
// being pulled: nobody can have it then, and it would soon be called something else.
func (p *imageDigests) digests(at time.Time, manifest block.Digest) []string {
	if image := p.images[manifest]; image != nil {
		if len(image.targets) > 0 {
			return image.targets
		}
		if at.Sub(image.seen) < pullGrace {
			return nil
		}
	}
	return []string{manifest.String()}
}
