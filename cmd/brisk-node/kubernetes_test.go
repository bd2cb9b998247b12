package main

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/brisk-project/brisk/api/v1alpha1"
	"github.com/brisk-project/brisk/control/nodeblocks"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/node/agent"
)

func TestAdvertised(t *testing.T) {
	listening := []string{
		"id@/ip4/127.0.0.1/tcp/4077", "id@/ip4/192.0.2.7/tcp/4077", "id@/ip6/::1/tcp/4077", "id@/ip6/fe80::1/tcp/4077",
		"id@/ip6/2001:db8::7/tcp/4077", "id@/dns/name/tcp/4077", "", "id@/",
	}
	for name, test := range map[string]struct {
		node netip.Addr
		want []string
	}{
		"all of the machine": {netip.Addr{}, []string{"/ip4/192.0.2.7/tcp/4077", "/ip6/2001:db8::7/tcp/4077"}},
		"that of the node":   {netip.MustParseAddr("192.0.2.9"), []string{"/ip4/192.0.2.9/tcp/4077"}},
		"another family":     {netip.MustParseAddr("2001:db8::9"), []string{"/ip6/2001:db8::9/tcp/4077"}},
	} {
		if diff := cmp.Diff(test.want, advertised(listening, test.node)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestReport(t *testing.T) {
	s := clusterState{version: "v1", address: netip.MustParseAddr("192.0.2.9"), last: agent.Inventory{
		Inventory: node.Inventory{
			CapacityBytes: 20 << 30, CachedBytes: 5 << 30, PinnedBytes: 1 << 30, PeerRate: 7, RegistryRate: 8, Backend: "erofs",
			PeerID: "id", PeerAddrs: []string{"id@/ip4/127.0.0.1/tcp/4077"},
		},
		Images: []agent.ImageInventory{{Manifest: block.Digest{0, 0, 0, 0, 9, 1}, StartMissing: 3, Cached: 4, Estimated: true}},
	}}
	want := nodeblocks.Report{
		Status: v1alpha1.NodeBlocksStatus{
			Healthy: true, Backend: "erofs", Version: "v1",
			Cache:     v1alpha1.CacheStatus{CapacityBytes: 20 << 30, FreeBytes: 19 << 30, Summary: "5.0 of 20.0 GiB"},
			Bandwidth: v1alpha1.BandwidthStatus{Peers: 7, Registry: 8},
			Peer:      &v1alpha1.PeerStatus{ID: "id", Addresses: []string{"/ip4/192.0.2.9/tcp/4077"}},
		},
		Images: []v1alpha1.ImageBlocks{{Key: 9, StartupMissing: 3, Cached: 4, Estimated: true}},
	}
	if diff := cmp.Diff(want, s.report(time.Now(), nil)); diff != "" {
		t.Error(diff)
	}
	want.Status.Healthy, want.Status.Message = false, "disk; containerd"
	if diff := cmp.Diff(want, s.report(time.Now(), errors.Join(errors.New("disk"), errors.New("containerd")))); diff != "" {
		t.Error(diff)
	}
}
