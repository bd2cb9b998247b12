package compat_test

import (
	"testing"

	"github.com/brisk-project/brisk/api/compat"
)

type marks = map[string]string

func TestWanted(t *testing.T) {
	ours := func(mode compat.Mode) marks { return marks{compat.Acceleration: string(mode)} }
	theirs := func(value string) marks { return marks{"k8s.aliyun.com/image-accelerate-mode": value} }
	for name, test := range map[string]struct {
		labels, annotations, namespace marks
		want                           compat.Mode
	}{
		"nothing":                 {want: compat.Unset},
		"label":                   {labels: ours(compat.Required), annotations: ours(compat.Disabled), namespace: ours(compat.Preferred), want: compat.Required},
		"annotation":              {annotations: ours(compat.Disabled), namespace: ours(compat.Required), want: compat.Disabled},
		"annotation over theirs":  {labels: theirs("on-demand"), annotations: ours(compat.Required), want: compat.Required},
		"namespace":               {namespace: ours(compat.Required), want: compat.Required},
		"namespace, ours first":   {namespace: marks{compat.Acceleration: "required", compat.AliyunMode: "on-demand"}, want: compat.Required},
		"no mode":                 {labels: ours("requird"), annotations: ours(""), namespace: ours(compat.Preferred), want: compat.Preferred},
		"theirs":                  {labels: theirs("on-demand"), want: compat.Preferred},
		"theirs of the namespace": {namespace: theirs("on-demand"), want: compat.Preferred},
		"opted out":               {labels: theirs(""), namespace: theirs("on-demand"), want: compat.Disabled},
		"opted out of ours":       {labels: theirs("off"), namespace: ours(compat.Required), want: compat.Disabled},
		"exact value":             {labels: theirs("On-Demand"), want: compat.Disabled},
		"annotation of theirs":    {annotations: theirs("on-demand"), want: compat.Unset},
	} {
		if got := compat.ModeOf(test.labels, test.annotations, test.namespace); got != test.want {
			t.Errorf("%s: %q instead of %q", name, got, test.want)
		}
	}
}

func TestNodeLabels(t *testing.T) {
	names := []string{"brisk.dev/accelerated", "alibabacloud.com/image-accelerate-enabled", "node.uk8s.ucloud.cn/uimgacc"}
	set, unset := compat.NodeLabels(true), compat.NodeLabels(false)
	if len(set) != len(names) || len(unset) != len(names) {
		t.Errorf("%v, %v", set, unset)
	}
	has := marks{"other": "label"}
	for _, name := range names {
		if compat.HasNodeLabels(has, true) {
			t.Errorf("%v are thought to be all labels", has)
		}
		if value, ok := unset[name]; !ok || value != nil {
			t.Errorf("%s is not removed", name)
		}
		if set[name] == nil || *set[name] != "true" {
			t.Fatalf("%s is not set", name)
		}
		has[name] = *set[name]
		if compat.HasNodeLabels(has, false) {
			t.Errorf("%v are thought to be none", has)
		}
	}
	if !compat.HasNodeLabels(has, true) || !compat.HasNodeLabels(nil, false) || !compat.IsAccelerated(has) || compat.IsAccelerated(nil) {
		t.Error("labels are not recognized")
	}
	has[names[0]] = "false"
	if compat.HasNodeLabels(has, true) || compat.HasNodeLabels(has, false) || compat.IsAccelerated(has) {
		t.Error("a label with another value is recognized")
	}
}

func TestNodeDisabled(t *testing.T) {
	off := marks{compat.Acceleration: "disabled"}
	if !compat.NodeDisabled(off, nil) || !compat.NodeDisabled(nil, off) || compat.NodeDisabled(nil, nil) ||
		compat.NodeDisabled(marks{compat.Acceleration: "preferred"}, marks{compat.Accelerated: "disabled"}) {
		t.Error("it is not known which nodes are disabled")
	}
}
