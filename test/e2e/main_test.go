//go:build e2e

package e2e

import (
	"os"
	"testing"

	"github.com/brisk-project/brisk/test/cluster"
)

func TestMain(m *testing.M) { os.Exit(cluster.Main(m.Run)) }
