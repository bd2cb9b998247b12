package agent

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/brisk-project/brisk/image/registry/credential"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/snapshotter"
	"github.com/brisk-project/brisk/node"
)

// statusPath is where the status is found on the socket of the node.
const statusPath = "/agent"

// Status is the status of an agent.
type Status struct {
	node.Status

	// NotReady is empty if the agent is ready, or else why it is not.
	NotReady []string `json:"notReady"`
	// Credentials are the names of where credentials come from.
	Credentials []string `json:"credentials"`
	// Repositories are those whose credentials are known, and where these come from.
	Repositories []credential.Status `json:"repositories"`
	// IdleMounts is how many images are mounted without a container, MaxIdleMounts how many
	// there may be.
	IdleMounts    int `json:"idleMounts"`
	MaxIdleMounts int `json:"maxIdleMounts"`
	// Images are those that are loaded lazily, and those pulled last that are not.
	Images []ImageStatus `json:"images"`
}

// ImageStatus is the status of one image.
type ImageStatus struct {
	Image    string `json:"image"`
	Manifest string `json:"manifest"`
	// Lazy says that layers are loaded when they are read. Reason says in one word why
	// not, or why not all of them, and Detail more of it.
	Lazy   bool   `json:"lazy"`
	Reason string `json:"reason,omitempty"`
	Detail string `json:"detail,omitempty"`
	// Pulled is when the image was pulled, zero if that is not known any more.
	Pulled time.Time `json:"pulled,omitzero"`

	// IdleSince is when the last container was removed, if the image is still mounted for the
	// next one.
	IdleSince time.Time `json:"idleSince,omitzero"`

	// Of an image that is not lazy the agent knows no more.
	*node.ImageStatus
}

// Local returns how much of the lazy layers is in the cache, in per cent rounded down.
func (s ImageStatus) Local() int64 {
	switch {
	case s.ImageStatus == nil:
		return 100
	case s.StreamBytes == 0:
		return 0
	}
	return min(100, 100*s.CachedBytes/s.StreamBytes)
}

// FetchStatus asks the agent whose directory is dir.
func FetchStatus(ctx context.Context, dir string) (Status, error) {
	var status Status
	return status, node.Client{Dir: dir}.Get(ctx, statusPath, &status)
}

// Status returns the status of the agent.
func (a *Agent) Status(ctx context.Context) (Status, error) {
	status := Status{Status: a.node.Status(), Credentials: a.cfg.Credentials, NotReady: []string{}, Repositories: []credential.Status{}}
	if a.cfg.Repositories != nil {
		status.Repositories = a.cfg.Repositories()
	}
	for _, err := range a.NotReady(ctx) {
		status.NotReady = append(status.NotReady, err.Error())
	}
	idle := a.snapshots.IdleMounts()
	status.IdleMounts, status.MaxIdleMounts = len(idle), a.cfg.Idle.Max
	var err error
	status.Images, err = a.images(ctx, idle)
	return status, err
}

// images tells of all images.
func (a *Agent) images(ctx context.Context, idle []snapshotter.IdleStatus) ([]ImageStatus, error) {
	pulls := make(map[[2]string]snapshotter.PullStatus)
	for _, pull := range a.snapshots.Pulls() {
		pulls[[2]string{pull.Image, pull.Manifest}] = pull
	}
	ids, err := a.snapshots.Images(ctx)
	if err != nil {
		return nil, err
	}
	all := []ImageStatus{}
	for _, id := range ids {
		opened, _, err := images{node: a.node}.open(id)
		if errors.Is(err, block.ErrNotFound) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		held := a.node.ImageStatus(opened)
		status := ImageStatus{Image: opened.Name, Manifest: opened.Digest.String(), Lazy: true, ImageStatus: &held}
		if i := slices.IndexFunc(idle, func(m snapshotter.IdleStatus) bool { return m.Image == id }); i >= 0 {
			status.IdleSince = idle[i].Since
		}
		key := [2]string{status.Image, status.Manifest}
		if pull, ok := pulls[key]; ok {
			status.Reason, status.Detail, status.Pulled = string(pull.Reason), pull.Detail, pull.Started
			delete(pulls, key)
		}
		if err := a.node.CheckIndex(opened, len(opened.Layers)); err != nil {
			status.Reason, status.Detail = string(snapshotter.ReasonFalseIndex), err.Error()
		}
		if err := a.node.CheckTrust(opened); err != nil {
			status.Reason, status.Detail = string(snapshotter.ReasonUntrusted), err.Error()
		}
		all = append(all, status)
	}
	for _, pull := range pulls {
		if pull.Lazy && pull.Reason == "" {
			continue // pulled, and removed since
		}
		all = append(all, ImageStatus{
			Image: pull.Image, Manifest: pull.Manifest, Lazy: pull.Lazy,
			Reason: string(pull.Reason), Detail: pull.Detail, Pulled: pull.Started,
		})
	}
	slices.SortFunc(all, func(x, y ImageStatus) int {
		return strings.Compare(x.Image+x.Manifest, y.Image+y.Manifest)
	})
	return all, nil
}

// extend adds the status to what the node answers.
func (a *Agent) extend(mux *http.ServeMux) {
	mux.HandleFunc("GET "+statusPath, func(w http.ResponseWriter, r *http.Request) {
		status, err := a.Status(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(status); err != nil {
			a.log.DebugContext(r.Context(), "request for the status ended early", "error", err)
		}
	})
}
