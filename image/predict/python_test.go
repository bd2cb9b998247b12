package predict_test

import (
	"maps"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// TestPython predicts the modules of programs of Python.
func TestPython(t *testing.T) {
	t.Parallel()
	base := content{
		"usr/bin/python3": "-> python3.11", "usr/bin/python3.11": program{length: 20000, interpreter: "/" + interpreter}.build(), interpreter: large("x"),
		"usr/lib/python3.11/os.py": large(""), "usr/lib/python3.11/encodings/__init__.py": large("from . import aliases"), "usr/lib/python3.11/encodings/aliases.py": large(""),
		"usr/lib/python3.11/json/__init__.py": large("from .decoder import Decoder"), "usr/lib/python3.11/json/decoder.py": large("import json.scanner\n"),
		"usr/lib/python3.11/json/scanner.py": large(""), "usr/lib/python3.11/lib-dynload/_ssl.cpython-311-x86_64-linux-gnu.so": library("libssl.so"),
		"lib/libssl.so": library(), "usr/lib/python3.11/runpy.py": large(""),
	}
	start := "usr/bin/python3.11 " + interpreter + " usr/lib/python3.11/encodings/__init__.py usr/lib/python3.11/encodings/aliases.py"
	for name, test := range map[string]struct {
		config v1.Config
		files  content
		want   string
	}{
		"a script": {entrypoint("python3", "-u", "/app/main.py"), content{
			"app/main.py": large("import json, sys\nfrom lib import (one,\n  two)\n"), "app/lib/one.py": large(""), "app/lib/two.py": large(""),
			"app/lib/__init__.py": large(""), "app/lib/__pycache__/__init__.cpython-311.pyc": large("compiled"),
		}, "app/main.py usr/lib/python3.11/json/__init__.py usr/lib/python3.11/json/decoder.py usr/lib/python3.11/json/scanner.py " +
			"app/lib/__pycache__/__init__.cpython-311.pyc app/lib/one.py app/lib/two.py"},
		"only what runs at once": {entrypoint("python3", "main.py"), content{
			"main.py": large("\"\"\"\nimport doc\n\"\"\"\ndef f():\n    import later\n\n    import later\nif TYPE_CHECKING:\n    import types_only\ntry:\n    import first\n" +
				"except ImportError: import json.scanner\nx = 'import doc'\nclass C:\n    import second\n    def f(self): import later\n"),
			"doc.py": large(""), "later.py": large(""), "types_only.py": large(""), "first.py": large(""), "second.py": large(""),
		}, "main.py first.py usr/lib/python3.11/json/__init__.py usr/lib/python3.11/json/decoder.py usr/lib/python3.11/json/scanner.py second.py"},
		"an extension with its libraries": {entrypoint("python3", "-c", "import _ssl"), nil, "usr/lib/python3.11/lib-dynload/_ssl.cpython-311-x86_64-linux-gnu.so lib/libssl.so"},
		"-m": {v1.Config{Entrypoint: []string{"python3", "-m", "app"}, WorkingDir: "/srv"}, content{
			"srv/app/__init__.py": large(""), "srv/app/__main__.py": large("from ..app import core\nfrom . import x"), "srv/app/x.py": large(""), "srv/app/core.py": large(""),
		}, "srv/app/__init__.py srv/app/__main__.py srv/app/core.py srv/app/x.py"},
		"a virtual environment": {v1.Config{Entrypoint: []string{"serve", "web.main:app"}, Env: []string{"PATH=/venv/bin"}, WorkingDir: "/srv"}, content{
			"venv/pyvenv.cfg": large("home = /usr/bin"), "venv/bin/python": "-> /usr/bin/python3.11", "venv/bin/serve": large("#!/venv/bin/python\nimport server"),
			"venv/lib/python3.11/site-packages/server.py": large(""), "usr/lib/python3/dist-packages/server.py": large(""), "srv/web/main.py": large("import web.util"),
			"srv/web/util.py": large(""),
		}, "venv/bin/serve ... venv/pyvenv.cfg ... venv/lib/python3.11/site-packages/server.py srv/web/main.py srv/web/util.py"},
		"paths of .pth files": {entrypoint("python3", "main.py"), content{
			"main.py": large("import extra"), "usr/lib/python3/dist-packages/a.pth": large("# x\n/opt/lib\nimport site"), "opt/lib/extra.py": large(""),
		}, "usr/lib/python3/dist-packages/a.pth ... main.py opt/lib/extra.py"},
	} {
		files := maps.Clone(base)
		maps.Copy(files, test.files)
		got := strings.Join(taken(t, test.config, files), " ")
		for part := range strings.SplitSeq(test.want, " ... ") {
			if !strings.Contains(got+" ", part+" ") {
				t.Errorf("%s:\n%s\nhas no\n%s", name, got, part)
			}
		}
		if strings.Count(got, " ")+1 > strings.Count(start+" "+test.want, " ")+1 {
			t.Errorf("%s: %s, want only %s %s", name, got, start, test.want)
		}
	}
}
