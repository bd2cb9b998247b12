package doctor

import (
	"context"
	"fmt"
	"time"

	nodeconfig "github.com/brisk-project/brisk/node/config"
	"github.com/brisk-project/brisk/node/host/containerdconfig"
	"github.com/brisk-project/brisk/node/host/install"
)

// checkTimeout is how long one check may take.
const checkTimeout = time.Minute

// Level is the severity of a finding.
type Level string

// The levels.
const (
	OK   Level = "ok"
	Warn Level = "warn" // it works, but not as well as it could
	Fail Level = "fail" // it does not work
)

// Finding is what a check has found.
type Finding struct {
	Check string `json:"check"`
	Level Level  `json:"level"`
	// Found is what is so, and Advice what to do about it, empty if nothing.
	Found  string `json:"found"`
	Advice string `json:"advice,omitempty"`
}

// Config configures [Run].
type Config struct {
	// Node is the configuration of the node.
	Node nodeconfig.Config
	// Target is what containerd should be configured for. A zero version is asked from
	// containerd.
	Target containerdconfig.Target
	// Containerd is the program, as a path or a name.
	Containerd string
	// Registry is a registry whose clock is compared with the one here, as host or
	// host:port; empty compares none.
	Registry string
	// Commands runs programs; nil means [install.Exec].
	Commands install.Commands
}

// Failed reports whether any finding is a failure.
func Failed(findings []Finding) bool {
	for _, f := range findings {
		if f.Level == Fail {
			return true
		}
	}
	return false
}

// doctor collects findings.
type doctor struct {
	cfg      Config
	check    string // the one under way
	findings []Finding
}

func (d *doctor) add(level Level, advice, format string, args ...any) {
	d.findings = append(d.findings, Finding{Check: d.check, Level: level, Found: fmt.Sprintf(format, args...), Advice: advice})
}

func (d *doctor) ok(format string, args ...any)           { d.add(OK, "", format, args...) }
func (d *doctor) warn(advice, format string, args ...any) { d.add(Warn, advice, format, args...) }
func (d *doctor) fail(advice, format string, args ...any) { d.add(Fail, advice, format, args...) }

// Run makes all checks, one after the other, and returns what they find, in that order.
func Run(ctx context.Context, cfg Config) []Finding {
	if cfg.Commands == nil {
		cfg.Commands = install.Exec{}
	}
	d := &doctor{cfg: cfg}
	for _, check := range []struct {
		name string
		run  func(ctx context.Context)
	}{
		{"kernel", d.kernel},
		{"fuse", d.fuse},
		{"mounts", d.mounts},
		{"overlayfs", d.overlay},
		{"disk", d.disk},
		{"bit-rot", d.rot},
		{"cgroup", d.cgroup},
		{"containerd", d.containerd},
		{"containerd-config", d.containerdConfig},
		{"images", d.images},
		{"credentials", d.credentials},
		{"registries", d.registries},
		{"kubelet", d.kubelet},
		{"agent", d.agent},
		{"clock", d.clock},
	} {
		d.check = check.name
		limited, cancel := context.WithTimeout(ctx, checkTimeout)
		check.run(limited)
		cancel()
	}
	return d.findings
}
