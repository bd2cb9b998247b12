package require_test

import (
	"errors"
	"testing"

	"github.com/brisk-project/brisk/test/require"
)

// recorder is a test that notes how it ends.
type recorder struct {
	testing.TB

	failed, skipped bool
}

func (*recorder) Helper() {}

func (r *recorder) Fatalf(string, ...any) { r.failed = true }

// Skip does nothing after a failure, which ends a test.
func (r *recorder) Skip(...any) { r.skipped = !r.failed }

// What is missing is a failure where nothing may be missing, and otherwise the reason of a skip.
func TestMissing(t *testing.T) {
	for _, strict := range []string{"", "1"} {
		t.Setenv(require.EnvStrict, strict)
		for _, err := range []error{nil, errors.New("none")} {
			r := &recorder{}
			require.Working(r, "a thing", err)
			if want := err != nil && strict != ""; r.failed != want {
				t.Errorf("strict %q, error %v: failed is %t", strict, err, r.failed)
			}
			if r.skipped != (err != nil && strict == "") {
				t.Errorf("strict %q, error %v: skipped is %t", strict, err, r.skipped)
			}
		}
	}
}
