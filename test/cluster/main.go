package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/brisk-project/brisk/test/containerdtest"
	"github.com/brisk-project/brisk/test/programs"
)

const (
	// envStage says which part this process plays.
	envStage = "BRISK_CLUSTER_STAGE"
	// envDir is the directory of everything the cluster keeps.
	envDir = "BRISK_CLUSTER_DIR"

	stageInside  = "inside"
	stageNode    = "node"
	stageJanitor = "janitor"

	// buildTimeout is how long building all programs may take on a slow machine.
	buildTimeout = 60 * time.Minute
)

// Main is for TestMain: it runs the tests in namespaces of their own, and returns the
// exit code. The process runs itself again for other parts that it plays, and must do
// nothing else before.
func Main(run func() int) int {
	if filepath.Base(os.Args[0]) == "systemctl" {
		return systemctl(os.Args[1:])
	}
	switch os.Getenv(envStage) {
	case stageNode:
		return report(runNode(os.Stdin))
	case stageJanitor:
		return report(clean(os.Getenv(envDir), os.Stdin))
	case stageInside:
		if err := settleIn(); err != nil {
			return report(err)
		}
		return run()
	}
	if os.Geteuid() != 0 {
		return run() // the tests say that they need root
	}
	code, err := isolate(context.Background()) //nolint:forbidigo // this is main
	if err != nil {
		return report(err)
	}
	return code
}

func report(err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "cluster:", err)
	return 1
}

// isolate builds what is missing, while the network of the machine is there, and runs
// this program again in namespaces.
func isolate(ctx context.Context) (int, error) {
	if _, err := containerdtest.Build(ctx); err != nil {
		return 0, err
	}
	if _, err := buildPrograms(ctx); err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("", "brisk-cluster-")
	if err != nil {
		return 0, fmt.Errorf("making a directory: %w", err)
	}
	end, ended, err := startJanitor(ctx, dir)
	if err != nil {
		return 0, errors.Join(err, os.RemoveAll(dir))
	}
	cmd := exec.CommandContext(ctx, "/proc/self/exe", os.Args[1:]...) //nolint:gosec // this program with its own arguments
	cmd.Env = append(os.Environ(), envStage+"="+stageInside, envDir+"="+dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
	}
	err = cmd.Run()
	if cmd.ProcessState != nil {
		err = nil
	}
	if err := errors.Join(err, end.Close(), <-ended); err != nil {
		return 0, err
	}
	return cmd.ProcessState.ExitCode(), nil
}

// startJanitor starts the process that removes what is left when end is closed, as the
// kernel does when this process ends.
func startJanitor(ctx context.Context, dir string) (end io.Closer, ended <-chan error, err error) {
	cmd := exec.CommandContext(context.WithoutCancel(ctx), "/proc/self/exe")
	cmd.Env = append(os.Environ(), envStage+"="+stageJanitor, envDir+"="+dir)
	cmd.Stderr = os.Stderr
	// Not to be interrupted with the test.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, fmt.Errorf("starting the janitor: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, fmt.Errorf("starting the janitor: %w", err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	return pipe, done, nil
}

// settleIn prepares the namespaces of the cluster.
func settleIn() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("cutting the mounts off from the machine: %w", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	return ip("link", "set", "lo", "up")
}

func ip(args ...string) error { return run("ip", args...) }

// run runs a program of the machine that says nothing when all is well.
func run(name string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) //nolint:forbidigo // bounded, and of no use to cancel
	defer cancel()
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %q: %w: %s", name, args, err, out)
	}
	return nil
}

// buildPrograms returns the directory of the programs of the cluster.
func buildPrograms(ctx context.Context) (string, error) {
	return programs.Set{
		Name: "cluster", Tools: "tools", Last: "kubelet", Timeout: buildTimeout,
		Sources: []string{"kubernetes/go.mod", "kubernetes/go.sum", "support/go.mod", "support/go.sum"},
	}.Dir(ctx)
}
