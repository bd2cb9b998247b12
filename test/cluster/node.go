package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Node is a node of a cluster.
type Node struct {
	Name string
	IP   string
	// Root is its root directory, as a path on the machine. What is mounted in the node,
	// such as /run, is not seen there.
	Root string

	c      *Cluster
	number int
	init   *process
	pid    int // of its first process
}

// nodeSpec is what the first process of a node is told.
type nodeSpec struct {
	Name, Root, IP string
	Routes         map[string]string // network to gateway
	Programs       []string          // directories of programs
	Logs           string
}

func nodeName(number int) string { return "n" + strconv.Itoa(number) }

func podNetwork(number int) string { return fmt.Sprintf("10.244.%d.0/24", number) }

func nodeIP(number int) string { return fmt.Sprintf("10.77.0.%d", 10+number) }

func (c *Cluster) newNode(number int) *Node {
	return &Node{
		Name: nodeName(number), IP: nodeIP(number), Root: filepath.Join(c.dir, nodeName(number)), c: c, number: number,
	}
}

// Start powers the node on, again after [Node.Kill].
func (n *Node) Start() error {
	containerd, err := n.c.containerdPrograms()
	if err != nil {
		return err
	}
	if _, err := os.Stat(n.Root); errors.Is(err, os.ErrNotExist) {
		if err := n.makeRoot(); err != nil {
			return fmt.Errorf("preparing node %s: %w", n.Name, err)
		}
	}
	spec := nodeSpec{
		Name: n.Name, Root: n.Root, IP: n.IP, Programs: []string{n.c.programs, containerd},
		Logs: filepath.Join(n.c.dir, "log"), Routes: map[string]string{"default": hostIP},
	}
	for other := range n.c.cfg.Nodes {
		if other+1 != n.number {
			spec.Routes[podNetwork(other+1)] = nodeIP(other + 1)
		}
	}
	if err := n.boot(spec); err != nil {
		return fmt.Errorf("starting node %s: %w", n.Name, err)
	}
	n.c.tb.Cleanup(n.Kill)
	return nil
}

// boot starts the first process of the node, plugs in its cable, and lets it go on.
func (n *Node) boot(spec nodeSpec) error {
	log, err := os.OpenFile(n.c.logPath(n.Name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // the node has it
	cmd := exec.CommandContext(context.WithoutCancel(n.c.tb.Context()), "/proc/self/exe")
	cmd.Env = append(os.Environ(), envStage+"="+stageNode)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
	}
	input, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	n.init, n.pid = &process{cmd: cmd, ended: make(chan struct{})}, cmd.Process.Pid
	go func() {
		defer close(n.init.ended)
		_ = cmd.Wait() //nolint:errcheck // it is killed
	}()
	cable := "cable" + strconv.Itoa(n.number)
	for _, args := range [][]string{
		{"link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(n.pid)},
		{"link", "set", cable, "master", "bridge0", "up"},
		{"route", "replace", podNetwork(n.number), "via", n.IP},
	} {
		if err := ip(args...); err != nil {
			return err
		}
	}
	return errors.Join(json.NewEncoder(input).Encode(spec), input.Close())
}

// Kill cuts the power of the node. Its files stay.
func (n *Node) Kill() {
	if n.init == nil {
		return
	}
	n.init.kill()
	n.init = nil
	// The network namespace, and with it the cable, goes only some time later.
	if err := ip("link", "del", "cable"+strconv.Itoa(n.number)); err != nil && n.c.tb.Context().Err() == nil {
		n.c.tb.Error(err)
	}
	if n.c.tb.Failed() {
		logs, err := filepath.Glob(n.c.logPath(n.Name + "*"))
		if err != nil {
			n.c.tb.Error(err)
		}
		for _, path := range logs {
			n.c.tb.Logf("%s:\n%s", filepath.Base(path), tail(path))
		}
	}
}

// LimitRate bounds both directions of the cable of the node to a rate as tc writes it, such as
// "200mbit". A node that is started again has a new cable, which is as fast as it can be.
func (n *Node) LimitRate(rate string) {
	n.c.tb.Helper()
	limit := []string{"root", "tbf", "rate", rate, "burst", "256k", "latency", "50ms"}
	if err := run("tc", append([]string{"qdisc", "replace", "dev", "cable" + strconv.Itoa(n.number)}, limit...)...); err != nil {
		n.c.tb.Fatal(err)
	}
	n.MustRun("tc", append([]string{"qdisc", "replace", "dev", "eth0"}, limit...)...)
}

// Run runs a program in the node and returns what it prints to its standard output.
func (n *Node) Run(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(n.c.tb.Context()), Timeout)
	defer cancel()
	enter := []string{"-t", strconv.Itoa(n.pid), "-m", "-u", "-i", "-n", "-p", "-r", "-w", "env", "-i", "PATH=" + nodePath, name}
	out, err := exec.CommandContext(ctx, "nsenter", append(enter, args...)...).Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("%s on %s: %w: %s", name, n.Name, err, strings.TrimSpace(string(exit.Stderr)))
	}
	return string(out), err
}

// MustRun is Run for what has to work.
func (n *Node) MustRun(name string, args ...string) string {
	n.c.tb.Helper()
	out, err := n.Run(name, args...)
	if err != nil {
		n.c.tb.Fatal(err)
	}
	return out
}

// AwaitReady waits until the cluster has the node and takes it for ready.
func (n *Node) AwaitReady(patience time.Duration) {
	n.c.tb.Helper()
	n.await("ready", patience, corev1.ConditionTrue)
}

// AwaitLost waits until the cluster misses the node.
func (n *Node) AwaitLost(patience time.Duration) {
	n.c.tb.Helper()
	n.await("missed", patience, corev1.ConditionUnknown)
}

func (n *Node) await(what string, patience time.Duration, want corev1.ConditionStatus) {
	n.c.tb.Helper()
	n.c.Await("node "+n.Name+" to be "+what, patience, func(ctx context.Context) (bool, error) {
		node, err := n.c.Client.CoreV1().Nodes().Get(ctx, n.Name, metav1.GetOptions{})
		if err != nil {
			return false, ignoreNotFound(err)
		}
		for _, condition := range node.Status.Conditions {
			if condition.Type == corev1.NodeReady {
				return condition.Status == want, nil
			}
		}
		return false, nil
	})
}
