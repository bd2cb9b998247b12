package lazyfs

import (
	"encoding/json"
	"testing"

	"github.com/brisk-project/brisk/internal/block"
)

func FuzzRecord(f *testing.F) {
	good, err := json.Marshal(&mountRecord{
		envelope: envelope{Version: recordVersion, Boot: "boot"}, ID: block.Digest{1}, Backend: Erofs, Target: "/t", Root: "/r",
		Session: "brisk-1", Layers: []layerRecord{{Stream: block.Digest{2}, Size: 3}, {Stream: block.Digest{4}, Plain: "/p"}},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"version":1,"boot":"b","dir":"/d","device":"0:1","settings":{"major":7,"minor":1,"maxReadAhead":1,"flags":1}}`))
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(`{"version":1,"layers":[{"size":-1}]}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		var mount mountRecord
		if err := parseRecord(content, &mount); err == nil {
			if err := mount.check(); err != nil {
				t.Errorf("taken, but: %v", err)
			}
			_ = mount.direct() || mount.overlaid()
		}
		var session sessionRecord
		if err := parseRecord(content, &session); err == nil && session.Dir == "" {
			t.Error("a session without a directory is taken")
		}
	})
}
