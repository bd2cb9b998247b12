package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/brisk-project/brisk/api/client"
	"github.com/brisk-project/brisk/api/v1alpha1"
	"github.com/brisk-project/brisk/control/members"
	"github.com/brisk-project/brisk/control/nodeblocks"
	"github.com/brisk-project/brisk/internal/version"
	"github.com/brisk-project/brisk/node/agent"
	nodeconfig "github.com/brisk-project/brisk/node/config"
	containerdapi "github.com/brisk-project/brisk/node/containerd"
	"github.com/brisk-project/brisk/p2p"
)

const (
	// reportEvery is the time between two looks at what the agent has.
	reportEvery = 2 * time.Second
	// healthEvery is the time between two questions whether the agent is ready, which
	// others have to answer.
	healthEvery = 6 * time.Second
	// firstReport is how long the first report waits for the agent to be ready.
	firstReport = 5 * time.Second
	// maxAddresses is how many addresses the definition of NodeBlocks admits.
	maxAddresses = 8
)

// cluster is what ties the agent to its cluster.
type cluster struct {
	agent     *agent.Agent
	publisher *nodeblocks.Publisher
	watcher   *members.Watcher // nil without peers
}

// clusterConfig configures a cluster.
type clusterConfig struct {
	settings nodeconfig.Config
	agent    *agent.Agent
	// members is told of the members of the zone, besides those configured.
	members    *p2p.List
	configured []p2p.Peer
	log        *slog.Logger
	metrics    prometheus.Registerer
}

// newCluster reads how to reach the cluster, and does not reach for it yet.
func newCluster(cfg clusterConfig) (*cluster, error) {
	settings := cfg.settings.Kubernetes
	name := cmp.Or(settings.Node, os.Getenv("NODE_NAME"))
	if name == "" {
		return nil, errors.New("kubernetes.node is empty, and NODE_NAME is not set")
	}
	how, err := restConfig(settings)
	if err != nil {
		return nil, err
	}
	objects, err := client.New(how)
	if err != nil {
		return nil, err
	}
	meta, err := metadata.NewForConfig(how)
	if err != nil {
		return nil, fmt.Errorf("making a client of metadata: %w", err)
	}
	state := &clusterState{agent: cfg.agent, inventory: cfg.agent.InventoryReader(), version: programVersion()}
	state.imageDigests.log = cfg.log
	if address := cfg.settings.Containerd.Address; address != "" {
		state.imageDigests.list = containerdapi.NewImages(address, kubeletNamespace).Targets
	}
	if state.address, err = nodeAddress(settings); err != nil {
		return nil, err
	}
	c := &cluster{agent: cfg.agent}
	c.publisher, err = nodeblocks.New(nodeblocks.Config{
		Node: name, Reporter: state, Objects: objects.NodeBlocks(), Nodes: meta.Resource(schema.GroupVersionResource{Version: "v1", Resource: "nodes"}),
		Poll: reportEvery, Log: cfg.log, Metrics: cfg.metrics,
	})
	if err != nil || len(cfg.settings.Peers.Listen) == 0 {
		return c, err
	}
	c.watcher, err = members.New(members.Config{
		Lister: meta.Resource(v1alpha1.GroupVersion.WithResource("nodeblocks")), Zone: c.publisher.Zone, Log: cfg.log,
		OnChange: func(found []string) { cfg.members.Set(slices.Concat(cfg.configured, parseMembers(found, cfg.log))) },
	})
	return c, err
}

// restConfig says how to reach the cluster.
func restConfig(settings nodeconfig.Kubernetes) (how *rest.Config, err error) {
	if settings.Kubeconfig != "" {
		how, err = clientcmd.BuildConfigFromFlags("", settings.Kubeconfig)
	} else {
		how, err = rest.InClusterConfig()
	}
	if err != nil {
		return nil, fmt.Errorf("reading how to reach the cluster: %w", err)
	}
	how.UserAgent = "brisk-node/" + programVersion()
	return how, nil
}

// nodeAddress returns the address that others reach the node under, zero if that is not
// configured.
func nodeAddress(settings nodeconfig.Kubernetes) (netip.Addr, error) {
	text := cmp.Or(settings.Address, os.Getenv("NODE_IP"))
	if text == "" {
		return netip.Addr{}, nil
	}
	address, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("the address of the node, NODE_IP: %w", err)
	}
	return address, nil
}

// programVersion returns the version that the program was built as.
func programVersion() string {
	const most = 64 // as the definition of NodeBlocks has it
	built := version.Of("brisk-node").Version
	return built[:min(most, len(built))]
}

// parseMembers reads what agents say of where they are reached. What makes no sense is
// left out: others write it.
func parseMembers(found []string, log *slog.Logger) []p2p.Peer {
	var peers []p2p.Peer
	for _, text := range found {
		peer, err := p2p.ParsePeer(text)
		if err != nil {
			log.Warn("a member of the zone is left out", "error", err)
			continue
		}
		peers = append(peers, peer)
	}
	return peers
}

// Run ties the agent to the cluster until ctx ends.
func (c *cluster) Run(ctx context.Context) error {
	// The first report is to say that the agent is ready, and where it is reached. What an
	// agent that was killed has said is not left there for longer than that, though.
	waiting, cancel := context.WithTimeout(ctx, firstReport)
	defer cancel()
	if err := c.agent.AwaitReady(waiting); err != nil && ctx.Err() != nil {
		return nil
	}
	var group errgroup.Group
	group.Go(func() error { return c.publisher.Run(ctx) })
	if c.watcher != nil {
		group.Go(func() error { return c.watcher.Run(ctx) })
	}
	return group.Wait()
}

// clusterState implements [nodeblocks.Reporter] with an agent.
type clusterState struct {
	agent     *agent.Agent
	inventory *agent.InventoryReader
	version   string
	address   netip.Addr // zero for all

	asked        time.Time // when notReady was learned
	notReady     []error
	last         agent.Inventory
	imageDigests imageDigests
}

// Report implements [nodeblocks.Reporter].
func (s *clusterState) Report(ctx context.Context) nodeblocks.Report {
	now := time.Now()
	if now.Sub(s.asked) >= healthEvery {
		s.notReady, s.asked = s.agent.NotReady(ctx), now
	}
	problems := slices.Clone(s.notReady)
	held, err := s.inventory.Read(ctx)
	if err == nil {
		s.last = held
	} else {
		problems = append(problems, fmt.Errorf("listing images: %w", err))
	}
	s.imageDigests.update(ctx, now, s.last.Images)
	return s.report(now, errors.Join(problems...))
}

// report says what was last known.
func (s *clusterState) report(at time.Time, problem error) nodeblocks.Report {
	held := s.last
	status := v1alpha1.NodeBlocksStatus{
		Healthy: problem == nil, Backend: held.Backend, Version: s.version,
		Cache: v1alpha1.CacheStatus{
			CapacityBytes: held.CapacityBytes, FreeBytes: max(0, held.CapacityBytes-held.PinnedBytes),
		},
		Bandwidth: v1alpha1.BandwidthStatus{Peers: held.PeerRate, Registry: held.RegistryRate},
	}
	status.Cache.Summarize(held.CachedBytes)
	if problem != nil {
		status.Message = strings.ReplaceAll(problem.Error(), "\n", "; ")
	}
	if addresses := advertised(held.PeerAddrs, s.address); len(addresses) > 0 {
		status.Peer = &v1alpha1.PeerStatus{ID: held.PeerID, Addresses: addresses}
	}
	for _, start := range s.last.Starts {
		for _, digest := range s.imageDigests.digests(at, start.Manifest) {
			status.Starts = append(status.Starts, v1alpha1.StartStatus{
				Image: digest, FinishedAt: metav1.NewMicroTime(start.Finished), Milliseconds: start.Waited.Milliseconds(),
			})
		}
	}
	status.Starts = status.Starts[max(0, len(status.Starts)-v1alpha1.MaxStarts):]
	return nodeblocks.Report{Status: status, Images: s.images(at)}
}

// images returns what is known of images, by all the digests that they are called by. Two
// that happen to have one key are one.
func (s *clusterState) images(at time.Time) []v1alpha1.ImageBlocks {
	var images []v1alpha1.ImageBlocks
	seen := make(map[v1alpha1.ImageKey]bool)
	for _, image := range s.last.Images {
		for _, digest := range s.imageDigests.digests(at, image.Manifest) {
			key, err := v1alpha1.KeyOf(digest)
			if err != nil || seen[key] {
				continue // digests of other kinds have no key
			}
			seen[key] = true
			images = append(images, v1alpha1.ImageBlocks{
				Key: key, StartupMissing: image.StartMissing, Cached: image.Cached, Estimated: image.Estimated,
			})
		}
	}
	return images
}

// advertised returns the multiaddresses that others reach a node under, given those it
// listens on, each as peerID@multiaddress: with the address of the node if there is one,
// or else those that others may reach.
func advertised(listening []string, node netip.Addr) []string {
	var found []string
	for _, text := range listening {
		_, text, _ = strings.Cut(text, "@")
		parts := strings.Split(text, "/") // "", ip4, address, tcp, port
		if len(parts) != 5 {
			continue
		}
		address, err := netip.ParseAddr(parts[2])
		if err != nil {
			continue
		}
		if node.IsValid() {
			address = node
		} else if address.IsLoopback() || address.IsLinkLocalUnicast() {
			continue
		}
		family := "ip6"
		if address.Is4() {
			family = "ip4"
		}
		found = append(found, strings.Join([]string{"", family, address.WithZone("").String(), parts[3], parts[4]}, "/"))
	}
	slices.Sort(found)
	found = slices.Compact(found)
	return found[:min(len(found), maxAddresses)]
}
