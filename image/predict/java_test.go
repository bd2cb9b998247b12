package predict_test

import (
	"strings"
	"testing"
)

// TestJava predicts a program in a .jar with what runs it.
func TestJava(t *testing.T) {
	t.Parallel()
	got := strings.Join(taken(t, entrypoint("/opt/java/bin/java", "-Xmx1g", "-jar", "/app.jar", "--x"), content{
		"opt/java/bin/java": linked("libjli.so"), interpreter: large("x"), "opt/java/lib/libjli.so": library(), "opt/java/lib/server/libjvm.so": library("libm.so"),
		"lib/libm.so": library(), "opt/java/lib/modules": large("classes"), "app.jar": large("classes"), "other.jar": large("classes"),
	}), " ")
	const want = "opt/java/bin/java " + interpreter + " opt/java/lib/libjli.so opt/java/lib/server/libjvm.so lib/libm.so opt/java/lib/modules app.jar"
	if got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
