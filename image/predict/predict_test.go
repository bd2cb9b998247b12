package predict_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/brisk-project/brisk/image/predict"
	"github.com/brisk-project/brisk/internal/block"
)

func entrypoint(args ...string) v1.Config { return v1.Config{Entrypoint: args} }

// TestProgramsAndLibraries predicts programs with their loader and libraries, from wherever a
// loader takes them, in the order in which it does.
func TestProgramsAndLibraries(t *testing.T) {
	t.Parallel()
	base := content{interpreter: large("loader"), "lib/x86_64-linux-gnu/libc.so.6": library(), "lib/unused.so": library()}
	for name, test := range map[string]struct {
		config v1.Config
		layers []content
		want   string
	}{
		"static":    {entrypoint("/app"), []content{base, {"app": program{}.build()}}, "app"},
		"libraries": {entrypoint("/app"), []content{base, {"app": linked("liba.so", "libc.so.6"), "usr/lib/liba.so": library("libb.so", "libc.so.6"), "lib/libb.so": library()}}, "app LD usr/lib/liba.so LIBC lib/libb.so"},
		"the command of the image": {
			v1.Config{Entrypoint: []string{"app"}, Cmd: []string{"-x"}, Env: []string{"PATH=/none:bin"}, WorkingDir: "/work"},
			[]content{base, {"work/bin/app": program{}.build(), "bin/app": program{}.build()}},
			"work/bin/app",
		},
		"the standard PATH": {v1.Config{Cmd: []string{"app"}}, []content{{"usr/bin/app": program{}.build()}}, "usr/bin/app"},
		"symbolic links": {
			entrypoint("/bin/app"),
			[]content{{"bin": "-> usr/bin", "usr/bin/app": "-> /etc/alternatives/app", "etc/alternatives/app": "-> ../../opt/app1", "opt/app1": program{}.build()}},
			"opt/app1",
		},
		"a file that a layer removes": {entrypoint("app"), []content{{"usr/bin/app": library(), "bin/app": program{}.build()}, {"usr/bin/.wh.app": ""}}, "bin/app"},
		"a file that a layer replaces": {
			entrypoint("/app"), []content{base, {"app": linked("old.so"), "lib/old.so": library(), "lib/new.so": library()}, {"app": linked("new.so")}}, "app LD lib/new.so",
		},
		"RUNPATH": {
			entrypoint("/opt/bin/app"), []content{base, {
				"opt/bin/app":     program{interpreter: "/" + interpreter, needed: []string{"liba.so"}, runpath: "$ORIGIN/../lib:/none"}.build(),
				"opt/lib/liba.so": library("libb.so"), "opt/lib/libb.so": library(), "lib/libb.so": library(),
			}}, "opt/bin/app LD opt/lib/liba.so lib/libb.so",
		},
		"RPATH, which libraries inherit": {
			entrypoint("/opt/bin/app"), []content{base, {
				"opt/bin/app":     program{interpreter: "/" + interpreter, needed: []string{"liba.so"}, rpath: "${ORIGIN}/../lib"}.build(),
				"opt/lib/liba.so": library("libb.so"), "opt/lib/libb.so": library(), "lib/libb.so": library(),
			}}, "opt/bin/app LD opt/lib/liba.so opt/lib/libb.so",
		},
		"LD_LIBRARY_PATH, LD_PRELOAD": {
			v1.Config{Entrypoint: []string{"/app"}, Env: []string{"LD_LIBRARY_PATH=/opt", "LD_PRELOAD=/usr/pre.so"}},
			[]content{base, {"app": linked("liba.so"), "opt/liba.so": library(), "lib/liba.so": library(), "usr/pre.so": library()}},
			"app LD usr/pre.so opt/liba.so",
		},
		"a library of another processor": {
			entrypoint("/app"), []content{base, {"app": linked("liba.so"), "lib/liba.so": library(), "lib64/liba.so": program{machine: 183}.build()}}, "app LD lib/liba.so",
		},
		"ld.so.conf": {
			entrypoint("/app"), []content{base, {
				"etc/ld.so.conf": "include ld.so.conf.d/*.conf # all\n", "etc/ld.so.conf.d/a.conf": "# none\n/opt/one\n", "etc/ld.so.conf.d/b": "/opt/two\n",
				"app": linked("liba.so"), "opt/one/liba.so": library(), "opt/two/liba.so": library(), "lib/liba.so": library(),
			}}, "app LD opt/one/liba.so",
		},
		"no default directories": {
			entrypoint("/app"), []content{base, {"app": program{interpreter: "/" + interpreter, needed: []string{"liba.so"}, noDefault: true}.build(), "lib/liba.so": library()}}, "app LD",
		},
		"libraries that need each other": {entrypoint("/app"), []content{base, {"app": linked("liba.so"), "lib/liba.so": library("libb.so"), "lib/libb.so": library("liba.so")}}, "app LD lib/liba.so lib/libb.so"},
	} {
		got := strings.Join(taken(t, test.config, test.layers...), " ")
		got = strings.NewReplacer(interpreter, "LD", "lib/x86_64-linux-gnu/libc.so.6", "LIBC").Replace(got)
		if got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
}

// TestLargeFiles predicts of large files what a loader reads of them.
func TestLargeFiles(t *testing.T) {
	t.Parallel()
	app := program{interpreter: "/" + interpreter, needed: []string{"huge.so", "large.so"}, length: 60 << 20}.build()
	layers, streams := image(t, content{
		interpreter: large("loader"), "app": app,
		"lib/huge.so": program{length: 20 << 20}.build(), "lib/large.so": program{length: 1 << 20}.build(),
	})
	for limit, want := range map[int64][2]int64{0: {49 << 20, 52 << 20}, 1 << 20: {1<<20 - 8192, 1<<20 + 16384}} {
		got, err := predict.Run(t.Context(), predict.Config{Layers: layers, Image: entrypoint("/app"), Stream: streams, MaxBytes: limit})
		if n := got.Trace.Bytes(); err != nil || n < want[0] || n > want[1] {
			t.Errorf("with a limit of %d: %d bytes, want %v: %v", limit, n, want, err)
		}
	}
}

// TestScripts predicts scripts, what interprets them, and what they start in the end.
func TestScripts(t *testing.T) {
	t.Parallel()
	base := content{"bin/sh": "-> dash", "bin/dash": program{}.build(), "usr/bin/app": program{length: 20000}.build(), "usr/bin/env": program{}.build(), "usr/bin/id": program{}.build()}
	for name, test := range map[string]struct {
		config v1.Config
		files  content
		want   string
	}{
		"entrypoint": {
			v1.Config{Entrypoint: []string{"/entry.sh"}, Cmd: []string{"app", "-d"}},
			content{"entry.sh": large("#!/bin/sh\nset -e\n# exec other\nif [ \"$1\" = x ]; then\n\tid -u\nfi\nexec \"$@\"")},
			"entry.sh bin/dash usr/bin/id usr/bin/app",
		},
		"env":          {entrypoint("/entry"), content{"entry": large("#!/usr/bin/env -S A=b app -x")}, "entry usr/bin/env usr/bin/app"},
		"shell":        {entrypoint("/bin/sh", "-c", "exec app --port=80"), nil, "bin/dash usr/bin/app"},
		"exec":         {entrypoint("sh", "-ec", "X=1 Y=2 exec app"), nil, "bin/dash usr/bin/app"},
		"last command": {entrypoint("sh", "-c", "cd /tmp && app | cat"), nil, "bin/dash usr/bin/app"},
		"init":         {entrypoint("tini", "-g", "--", "env", "-u", "X", "A=b", "app"), content{"bin/tini": program{length: 20000}.build()}, "bin/tini usr/bin/env usr/bin/app"},
		"gosu":         {entrypoint("gosu", "user", "app"), content{"bin/gosu": program{length: 20000}.build()}, "bin/gosu usr/bin/app"},
		"dumb-init":    {entrypoint("dumb-init", "--", "app"), content{"bin/dumb-init": program{length: 20000}.build()}, "bin/dumb-init usr/bin/app"},
		"busybox":      {entrypoint("busybox", "env", "app"), content{"bin/busybox": program{length: 20000}.build()}, "bin/busybox usr/bin/app"},
		"here-document": {
			entrypoint("/entry.sh"), content{"entry.sh": large("#!/bin/sh\ncat <<EOF\nid\nEOF\napp")}, "entry.sh bin/dash usr/bin/app",
		},
		"a script that starts itself": {entrypoint("/entry.sh"), content{"entry.sh": large("#!/entry.sh\nexec /entry.sh")}, "entry.sh"},
		"no such program":             {entrypoint("/entry.sh", "none"), content{"entry.sh": large("#!/bin/sh\nexec \"$@\"")}, "entry.sh bin/dash"},
		"what only a shell can tell":  {entrypoint("/entry.sh", "app"), content{"entry.sh": large("#!/bin/sh\nexec $1 id")}, "entry.sh bin/dash"},
	} {
		if got := strings.Join(taken(t, test.config, base, test.files), " "); got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
}

// TestNothing says why there is no prediction.
func TestNothing(t *testing.T) {
	t.Parallel()
	for want, config := range map[string]v1.Config{
		"names no program": {}, `no program "none"`: entrypoint("none"), `no program "/loop"`: entrypoint("/loop"), `no program "/dir"`: entrypoint("/dir"),
		`no program "/empty/x"`: entrypoint("/empty/x"),
	} {
		layers, streams := image(t, content{"loop": "-> loop", "dir/file": "x", "empty": ""})
		got, err := predict.Run(t.Context(), predict.Config{Layers: layers, Image: config, Stream: streams})
		if !errors.Is(err, predict.ErrNothing) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, %v, want %q", got.Trace, err, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	layers, streams := image(t, content{"app": library()})
	if _, err := predict.Run(ctx, predict.Config{Layers: layers, Image: entrypoint("/app"), Stream: streams}); !errors.Is(err, context.Canceled) {
		t.Errorf("a call that was cancelled: %v", err)
	}
}

// failing fails after some reads.
type failing struct {
	predict.Reader

	left int
	err  error
}

func (f *failing) ReadStream(ctx context.Context, layer block.Digest, p []byte, off int64) error {
	if f.left--; f.left < 0 {
		return f.err
	}
	return f.Reader.ReadStream(ctx, layer, p, off)
}

// TestReadsThatFail predicts as much as can be read.
func TestReadsThatFail(t *testing.T) {
	t.Parallel()
	layers, streams := image(t, content{interpreter: large("x"), "app": linked("liba.so"), "lib/liba.so": library("libb.so"), "lib/libb.so": library()})
	var sizes []int64
	for _, err := range []error{predict.ErrBudget, errors.New("the registry does not answer")} {
		for left := range 30 {
			got, err := predict.Run(t.Context(), predict.Config{Layers: layers, Image: entrypoint("/app"), Stream: &failing{streams, left, err}})
			if err != nil && !errors.Is(err, predict.ErrNothing) {
				t.Fatal(err)
			}
			sizes = append(sizes, got.Trace.Bytes())
		}
		if !slices.IsSorted(sizes) || len(slices.Compact(slices.Clone(sizes))) < 3 {
			t.Errorf("bytes by number of reads: %v", sizes)
		}
		sizes = nil
	}
}

// TestDeterminism predicts the same twice.
func TestDeterminism(t *testing.T) {
	t.Parallel()
	files := content{interpreter: large("x"), "app": linked("liba.so", "libc.so", "libb.so")}
	for _, name := range []string{"a", "b", "c"} {
		files["lib/lib"+name+".so"] = library("lib" + name + "2.so")
		files["lib/lib"+name+"2.so"] = library()
	}
	want := taken(t, entrypoint("/app"), files)
	for range 20 {
		if diff := cmp.Diff(want, taken(t, entrypoint("/app"), files)); diff != "" {
			t.Fatal(diff)
		}
	}
}
