// Command kubectl-brisk shows where images are warm in a cluster, and why a pod was placed on its
// node. kubectl runs it as "kubectl brisk".
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := newRootCommand().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "kubectl brisk:", err)
		os.Exit(1)
	}
}
