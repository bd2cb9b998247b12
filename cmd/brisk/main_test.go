package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/brisk-project/brisk/test/mountns"
	"github.com/brisk-project/brisk/test/registrytest"
)

// envProgram makes the test binary the program itself, so that its processes run what
// is being tested, race detector included.
const envProgram = "BRISK_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(envProgram) != "" {
		main()
		return
	}
	if code, done := mountns.Rerun(); done {
		os.Exit(code)
	}
	goleak.VerifyTestMain(m, registrytest.LeakOptions()...)
}

// outcome is how a run of the program ended.
type outcome struct {
	code           int
	stdout, stderr string
}

// program prepares a run of the program.
func program(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, args...)
	// The race detector makes each process sleep for a second at its end by default.
	cmd.Env = append(os.Environ(), envProgram+"=1", "DOCKER_CONFIG="+t.TempDir(), "GORACE=atexit_sleep_ms=0")
	return cmd
}

// finish runs the program to its end. Its messages go to a file, because a process in
// the background keeps them open.
func finish(t *testing.T, cmd *exec.Cmd) outcome {
	t.Helper()
	var stdout bytes.Buffer
	stderr, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close() //nolint:errcheck // read below
	cmd.Stdout, cmd.Stderr = &stdout, stderr
	err = cmd.Run()
	if _, failed := errors.AsType[*exec.ExitError](err); err != nil && !failed {
		t.Fatal(err)
	}
	messages, err := os.ReadFile(stderr.Name())
	if err != nil {
		t.Fatal(err)
	}
	return outcome{cmd.ProcessState.ExitCode(), stdout.String(), string(messages)}
}

// run runs the program, which must succeed, and returns what it prints.
func run(t *testing.T, args ...string) string {
	t.Helper()
	got := finish(t, program(t, args...))
	if got.code != 0 {
		t.Fatalf("brisk %s: exit code %d\n%s%s", strings.Join(args, " "), got.code, got.stdout, got.stderr)
	}
	return got.stdout
}

// requireOutput checks that a text has all of the parts.
func requireOutput(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q is missing in:\n%s", part, text)
		}
	}
}

// fileData is what the one file of each layer of the test image holds.
func fileData(layer uint64) []byte { return registrytest.Files(layer, 1, 1<<20)[1].Data }

func filePath(layer string) string { return "data-" + layer + "/file-0000" }

// pushImage pushes an image of a gzip and a zstd layer, without an index.
func pushImage(t *testing.T, reg *registrytest.Registry, ref string) string {
	t.Helper()
	reg.Push(t, ref, registrytest.Image{Layers: []registrytest.Layer{
		{Tar: registrytest.Tar(t, registrytest.Files(1, 1, 1<<20)...), Level: 1},
		{Tar: registrytest.Tar(t, registrytest.Files(2, 1, 1<<20)...), Level: 1, Compression: registrytest.Zstd, FrameSize: 300_000},
	}})
	return reg.Ref(t, ref).String()
}

// requireImage reads the files of the test image below a directory.
func requireImage(t *testing.T, root string) {
	t.Helper()
	for name, want := range map[string][]byte{filePath("1"): fileData(1), filePath("2"): fileData(2)} {
		got, err := os.ReadFile(filepath.Join(root, name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: error %v, %d bytes, or wrong bytes", name, err, len(got))
		}
	}
}

// asOrdinaryUser makes the program see itself as user 1000, through a user namespace in
// which that is who runs the test.
func asOrdinaryUser(cmd *exec.Cmd) {
	own := func(id int) []syscall.SysProcIDMap {
		return []syscall.SysProcIDMap{{ContainerID: 1000, HostID: id, Size: 1}}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER, UidMappings: own(os.Getuid()), GidMappings: own(os.Getgid()),
		Credential: &syscall.Credential{Uid: 1000, Gid: 1000, NoSetGroups: true},
	}
}
