package snapshotter

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/brisk-project/brisk/internal/statefile"
)

// maxHistory bounds the file of pulls in bytes, maxDetail one entry of it.
const (
	maxHistory = 4 << 20
	maxDetail  = 2 << 10
)

// save keeps what became of pulls for the next process. It is not worth failing for.
func (d *decider) save(ctx context.Context) {
	d.saving.Lock()
	defer d.saving.Unlock()
	if err := writeHistory(filepath.Join(d.cfg.Root, "pulls.json"), d.all()); err != nil {
		d.log.WarnContext(ctx, "status of pulls will be lost with this process", "error", err)
	}
}

func writeHistory(path string, pulls []PullStatus) error {
	for i := range pulls {
		pulls[i].Detail = pulls[i].Detail[:min(len(pulls[i].Detail), maxDetail)]
	}
	content, err := json.Marshal(pulls)
	if err != nil {
		return fmt.Errorf("encoding the status of pulls: %w", err)
	}
	if err := statefile.Write(path, content); err != nil {
		return fmt.Errorf("writing the status of pulls: %w", err)
	}
	return nil
}

// load reads what processes before have kept.
func (d *decider) load(ctx context.Context) {
	pulls, err := readHistory(filepath.Join(d.cfg.Root, "pulls.json"))
	if err != nil {
		d.log.WarnContext(ctx, "status of pulls before the start is lost", "error", err)
	}
	done := make(chan struct{})
	close(done)
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, status := range pulls {
		d.pulls.Add(pullKey{status.Image, status.Manifest}, &decision{done: done, err: errBefore, status: status, used: status.Started})
	}
}

func readHistory(path string) ([]PullStatus, error) {
	content, err := statefile.Read(path, maxHistory)
	if err != nil {
		return nil, fmt.Errorf("reading the status of pulls: %w", err)
	}
	if content == nil {
		return nil, nil
	}
	return parseHistory(content)
}

func parseHistory(content []byte) ([]PullStatus, error) {
	var pulls []PullStatus
	if err := json.Unmarshal(content, &pulls); err != nil {
		return nil, fmt.Errorf("reading the status of pulls: %w", err)
	}
	pulls = slices.DeleteFunc(pulls, func(p PullStatus) bool { return p.Reason != "" && !p.Reason.known() })
	return pulls[max(0, len(pulls)-keptPulls):], nil
}
