package node

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/image/proof"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/scrub"
)

// ErrFalseIndex says that the index of an image is false: mounted with it, the image has
// other files than when it is unpacked.
var ErrFalseIndex = proof.ErrFalse

// proofMetrics counts proofs. A nil *proofMetrics counts nothing.
type proofMetrics struct {
	layers prometheus.Counter
	found  prometheus.Counter
}

func (n *Node) openProofs() error {
	var err error
	if n.proofs, err = openProofs(filepath.Join(n.cfg.Dir, ProofsFile)); err != nil {
		n.log.Warn("results of verification are lost, layers are verified again", "error", err)
	}
	if n.cfg.Metrics == nil {
		return nil
	}
	n.proofMetrics = &proofMetrics{
		layers: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "brisk_proof_layers_total", Help: "Layers that were read to their end to check what their indexes claim.",
		}),
		found: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "brisk_proof_false_indexes_total", Help: "Layer indexes that were found to be false.",
		}),
	}
	known := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "brisk_proof_false_indexes", Help: "Layer indexes that are known to be false and are not used for pulls.",
	}, func() float64 { return float64(n.proofs.count()) })
	for _, c := range []prometheus.Collector{n.proofMetrics.layers, n.proofMetrics.found, known} {
		if err := n.cfg.Metrics.Register(c); err != nil {
			return fmt.Errorf("registering the metrics of proofs: %w", err)
		}
	}
	return nil
}

// observe returns who proves a complete layer while it is read back, nil if that is done.
func (n *Node) observe(ctx context.Context, stream block.Digest) scrub.Observer {
	if _, ok := n.proofs.facts(stream); ok {
		return nil
	}
	// The scrubber verifies every block that it hands on.
	known := func(i uint32) (block.Digest, bool) {
		return n.layerIndexes.BlockDigest(block.Key{Layer: stream, Index: i})
	}
	return &proving{ctx: ctx, node: n, stream: stream, prover: proof.New(ctx, known)}
}

// proving proves one layer.
type proving struct {
	ctx    context.Context //nolint:containedctx // of the pass that it observes
	node   *Node
	stream block.Digest
	prover *proof.Prover
}

// Write implements [scrub.Observer].
func (p *proving) Write(data []byte) { p.prover.Write(data) }

// Close implements [scrub.Observer].
func (p *proving) Close(whole bool) {
	if !whole {
		p.prover.Discard()
		return
	}
	truth, err := p.prover.Finish()
	if err == nil {
		err = p.node.proven(p.ctx, p.stream, truth)
	}
	if err != nil && p.ctx.Err() == nil {
		p.node.log.WarnContext(p.ctx, "layer is not proven", "layer", p.stream.Short(), "error", err)
	}
}

// proven compares all indexes of a stream with the truth about it.
func (n *Node) proven(ctx context.Context, stream block.Digest, truth proof.RebuiltIndex) error {
	n.keeping.RLock()
	defer n.keeping.RUnlock()
	found, err := n.candidates(ctx, stream)
	if err != nil {
		return err
	}
	v := verdict{stream: stream, facts: truth.StreamDigests}
	for _, c := range found {
		err = errors.Join(err, n.judge(&v, c, truth.Check))
	}
	if n.proofMetrics != nil {
		n.proofMetrics.layers.Inc()
	}
	n.log.DebugContext(ctx, "layer is verified", "layer", stream.Short(), "digest", truth.DiffID.String())
	return errors.Join(err, n.remember(ctx, v))
}

// judge compares the index of a layer with what is true of its stream. It reads the index
// from the object store, which compares the digest: bit rot is no lie.
func (n *Node) judge(v *verdict, c candidate, check func(*index.Layer) error) error {
	file, err := n.storedIndex(c.layer)
	if err != nil {
		return fmt.Errorf("reading the index of layer %s of %s: %w", c.layer.Digest.Short(), c.image.Name, err)
	}
	claimed, err := file.open(c.layer)
	if err != nil {
		return errors.Join(fmt.Errorf("judging the index of layer %s of %s: %w", c.layer.Digest.Short(), c.image.Name, err), file.Close())
	}
	err = check(claimed)
	if closeErr := file.Close(); closeErr != nil {
		return fmt.Errorf("closing the index of layer %s of %s: %w", c.layer.Digest.Short(), c.image.Name, closeErr)
	}
	switch {
	case err == nil:
		v.right = append(v.right, c.layer.Index)
		return nil
	case !errors.Is(err, proof.ErrFalse):
		return err
	}
	i := slices.IndexFunc(v.wrong, func(other FalseIndex) bool { return other.Index == c.layer.Index })
	if i >= 0 {
		v.wrong[i].Images = append(v.wrong[i].Images, c.image.Name)
		return nil
	}
	reason := err.Error()
	v.wrong = append(v.wrong, FalseIndex{
		Index: c.layer.Index, Stream: v.stream, Layer: c.layer.Digest, Images: []string{c.image.Name},
		Reason: reason[:min(len(reason), maxReason)], Found: time.Now().UTC(),
	})
	return nil
}

// remember keeps a verdict, and makes it known what was found to be false.
func (n *Node) remember(ctx context.Context, v verdict) error {
	found, err := n.proofs.add(v)
	for _, lie := range found {
		if n.proofMetrics != nil {
			n.proofMetrics.found.Inc()
		}
		n.log.ErrorContext(ctx, "layer index is false, images with it get no new containers",
			"images", lie.Images, "layer", lie.Layer.String(), "index", lie.Index.String(), "error", lie.Reason)
	}
	if len(found) > 0 && n.cfg.OnFalseIndex != nil {
		n.cfg.OnFalseIndex(ctx)
	}
	return err
}

// proveComplete has the complete ones of the layers of a mount proven that are not: nobody
// may have known them when they became complete.
func (n *Node) proveComplete(streams []block.Digest) {
	for _, stream := range streams {
		if _, ok := n.proofs.facts(stream); !ok && n.disk.Complete(stream) {
			n.scrubber.Complete(stream)
		}
	}
}

// judgeKnown compares an index that is about to be used if what is true of its stream is
// known already.
func (n *Node) judgeKnown(ctx context.Context, c candidate, used *openLayer) {
	stream := used.StreamID()
	if n.proofs.judged(stream, c.layer.Index) {
		return
	}
	facts, ok := n.proofs.facts(stream)
	if !ok && used.StreamSize() == 0 {
		// There is no block whose arrival would make it complete.
		truth, err := proof.New(ctx, nil).Finish()
		facts, ok = truth.StreamDigests, err == nil
	}
	if !ok {
		return
	}
	v := verdict{stream: stream, facts: facts}
	err := n.judge(&v, c, facts.Check)
	if err = errors.Join(err, n.remember(ctx, v)); err != nil {
		n.log.WarnContext(ctx, "layer index is not checked", "image", c.image.Name, "layer", c.layer.Digest.String(), "error", err)
	}
}

// FalseIndex returns the first of the lowest layers of an image whose index is known to be
// false.
func (n *Node) FalseIndex(image *Image, layers int) (FalseIndex, bool) {
	for _, layer := range image.Layers[:min(layers, len(image.Layers))] {
		if lie, ok := n.proofs.falseIndex(layer.Index); ok {
			return lie, true
		}
	}
	return FalseIndex{}, false
}

// CheckIndex returns an error that wraps [ErrFalseIndex] if one of the lowest layers of an
// image has an index that is known to be false.
func (n *Node) CheckIndex(image *Image, layers int) error {
	lie, found := n.FalseIndex(image, layers)
	if !found {
		return nil
	}
	return fmt.Errorf("index %s of layer %s of image %s: %w", lie.Index.Short(), lie.Layer, image.Name, &falseIndexError{lie.Reason})
}

// falseIndexError is an error that was found before.
type falseIndexError struct{ reason string }

// Error implements error.
func (e *falseIndexError) Error() string { return e.reason }

// Is makes it an [ErrFalseIndex].
func (e *falseIndexError) Is(target error) bool { return target == ErrFalseIndex }

// HasFalseIndexes reports whether any index is known to be false.
func (n *Node) HasFalseIndexes() bool { return n.proofs.count() > 0 }
