// Package version describes the build of a program: the version of Brisk, the commit and its date,
// the version of Go, and the platform. The values come from -ldflags, or else from the build
// information of the Go toolchain.
package version

import (
	"cmp"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strings"
)

// unknown stands for what a build does not say.
const unknown = "unknown"

// What a build may set:
//
//	go build -ldflags "-X github.com/brisk-project/brisk/internal/version.release=v1.2.3"
//
//nolint:gochecknoglobals // the linker sets variables only
var release, commit, date string

// Info is what is known of a program.
type Info struct {
	Program string `json:"program"`
	Version string `json:"version"`
	Commit  string `json:"commit"`
	// Date is when the commit was made, in RFC 3339, so that building it again says the same.
	Date     string `json:"date"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
	// Kernel is the release of the node's kernel, for programs that depend on it.
	Kernel string `json:"kernel,omitempty"`
}

// Of returns what is known of the running program, which is called as given.
func Of(program string) Info {
	build, ok := debug.ReadBuildInfo()
	if !ok {
		build = &debug.BuildInfo{}
	}
	return describe(program, build)
}

func describe(program string, build *debug.BuildInfo) Info {
	settings := make(map[string]string)
	for _, s := range build.Settings {
		settings[s.Key] = s.Value
	}
	revision := settings["vcs.revision"]
	if revision != "" && settings["vcs.modified"] == "true" {
		revision += ", modified"
	}
	module := build.Main.Version
	if module == "(devel)" {
		module = ""
	}
	return Info{
		Program:  program,
		Version:  cmp.Or(release, module, unknown),
		Commit:   cmp.Or(commit, revision, unknown),
		Date:     cmp.Or(date, settings["vcs.time"], unknown),
		Go:       cmp.Or(build.GoVersion, runtime.Version()),
		Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
}

// String returns the program and its version on one line.
func (i Info) String() string { return i.Program + " " + i.Version }

// Write prints what is known, a line each.
func (i Info) Write(w io.Writer) error {
	var text strings.Builder
	text.WriteString(i.String() + "\n")
	for _, line := range [][2]string{{"commit", i.Commit}, {"date", i.Date}, {"go", i.Go}, {"platform", i.Platform}, {"kernel", i.Kernel}} {
		if line[1] != "" {
			fmt.Fprintf(&text, "%-9s %s\n", line[0]+":", line[1])
		}
	}
	if _, err := io.WriteString(w, text.String()); err != nil {
		return fmt.Errorf("printing the version: %w", err)
	}
	return nil
}
