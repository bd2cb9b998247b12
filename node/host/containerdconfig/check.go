package containerdconfig

import (
	"fmt"
	"slices"

	"github.com/brisk-project/brisk/node/host/tomledit"
)

// Problem is something in the configuration of containerd that keeps images from being
// loaded lazily.
type Problem struct {
	// What is wrong, and what to do about it.
	What, Advice string
	// Minor problems do not keep images from being lazy.
	Minor bool
}

// Check looks for problems in the configuration that is in force, as "containerd config
// dump" prints it.
func (t Target) Check(dump []byte) ([]Problem, error) {
	doc, err := tomledit.Parse(dump)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration that is in force: %w", err)
	}
	var found []Problem
	add := func(minor bool, advice, format string, args ...any) {
		found = append(found, Problem{What: fmt.Sprintf(format, args...), Advice: advice, Minor: minor})
	}
	const install = "run brisk-node install"
	proxy := func(key ...string) any {
		value, _ := doc.Get(append([]string{"proxy_plugins", t.Name}, key...)...)
		return value
	}
	if _, ok := doc.Get("proxy_plugins", t.Name); !ok {
		add(false, install, "containerd does not know the snapshotter %s", t.Name)
	} else if proxy("type") != "snapshot" || proxy("address") != t.Socket {
		add(false, install, "containerd expects %s of type %v at %v, not at %s", t.Name, proxy("type"), proxy("address"), t.Socket)
	} else if proxy("exports", "root") != t.Dir {
		add(true, install, "kubelet measures the images of %s in %v, not in %s", t.Name, proxy("exports", "root"), t.Dir)
	}
	for _, section := range sections() {
		if _, ok := doc.Get(section...); !ok {
			continue
		}
		get := func(key string) any {
			value, _ := doc.Get(append(slices.Clone(section), key)...)
			return value
		}
		if get(keySnapshotter) != t.Name {
			add(false, install+"; if that was done, look for a later file in the imports of containerd",
				"the CRI uses the snapshotter %v, not %s", get(keySnapshotter), t.Name)
		}
		local := get(keyLocalPull)
		transfer := t.Version.AtLeast(2, 1) && local != true && get(keyNoAnnotations) == true
		switch {
		case transfer:
			t.checkTransfer(doc, proxy, add)
		case get(keyNoAnnotations) == true:
			add(false, install, "containerd does not tell snapshotters which image it pulls (%s is true)", keyNoAnnotations)
		}
		if get("discard_unpacked_layers") == true {
			add(true, "set it to false", "discard_unpacked_layers is true: images cannot be pushed from this node")
		}
	}
	return found, nil
}

// checkTransfer checks what pulls by the transfer service need.
func (t Target) checkTransfer(doc *tomledit.Document, proxy func(...string) any, add func(bool, string, string, ...any)) {
	if proxy("exports", "enable_remote_snapshot_annotations") != "true" {
		add(false, "run brisk-node install",
			"images are pulled by the transfer service, which does not tell %s which image it pulls", t.Name)
	}
	value, _ := doc.Get("plugins", "io.containerd.transfer.v1.local", "unpack_config")
	list, isList := value.([]any)
	if !isList || !slices.ContainsFunc(list, func(item any) bool {
		table, ok := item.(map[string]any)
		return ok && table["snapshotter"] == t.Name
	}) {
		add(false, "set use_local_image_pull to true, or add an unpack_config to io.containerd.transfer.v1.local",
			"images are pulled by the transfer service, which has no unpack_config for %s", t.Name)
	}
}
