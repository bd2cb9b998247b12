package erofs_test

import (
	"os/exec"
	"testing"

	"github.com/brisk-project/brisk/test/require"
)

// fsck has fsck.erofs check rootfs metadata, in a subtest so that where the tool is
// missing the other checks of a test still run. Versions before 1.8 do not read
// blocks of 512 bytes reliably.
func fsck(t *testing.T, imagePath string, devices []string) {
	t.Helper()
	t.Run("fsck", func(t *testing.T) {
		tool := require.Version(t, "fsck.erofs", 1, 8)
		args := []string{"--extract"} // into nowhere: reads the content of every file
		for _, device := range devices {
			args = append(args, "--device="+device)
		}
		out, err := exec.CommandContext(t.Context(), tool, append(args, imagePath)...).CombinedOutput()
		if err != nil {
			t.Errorf("fsck.erofs: %v\n%s", err, out)
		}
	})
}
