package predict_test

import (
	"strings"
	"testing"
)

// TestNodeJS predicts the modules of programs of Node.js.
func TestNodeJS(t *testing.T) {
	t.Parallel()
	base := content{"usr/bin/node": program{length: 20000}.build(), "usr/bin/env": program{length: 20000}.build(), "bin/sh": program{length: 20000}.build()}
	for name, test := range map[string]struct {
		command []string
		files   content
		want    string
	}{
		"requires in order": {
			[]string{"node", "--max-old-space-size=100", "/app/main"}, content{
				"app/main.js": large("const a = require('./a'), fs = require('node:fs')\nrequire(\"./b.js\"); require(`./c`)"),
				"app/a.js":    large("require('./sub')"), "app/b.js": large("require('./' + name); require('./a')"), "app/c.json": large("{}"),
				"app/sub/index.js": large("// require('./never')\n"), "app/sub/never.js": large(""),
			}, "app/main.js app/a.js app/sub/index.js app/b.js app/c.json",
		},
		"packages": {
			[]string{"node", "app"},
			content{
				"app/package.json": large(`{"main": "lib"}`), "app/lib.js": large("import x from 'one'\nimport '@scope/two/sub'\nexport * from \"three\"\nawait import('four')"),
				"app/node_modules/one/package.json": large(`{"main": "./dist/"}`), "app/node_modules/one/dist/index.js": large(""),
				"app/node_modules/@scope/two/package.json": large(`{"exports": {".": "./x.js", "./sub": {"types": "./sub.d.ts", "node": {"default": "./lib/sub.cjs"}}}}`),
				"app/node_modules/@scope/two/lib/sub.cjs":  large(""),
				"node_modules/three/package.json":          large(`{"exports": [{"import": "./three.mjs"}, "./other.js"]}`), "node_modules/three/three.mjs": large(""),
				"node_modules/four/index.js": large("require('four/x')"), "node_modules/four/x.js": large(""),
			},
			"app/package.json app/lib.js app/node_modules/one/package.json app/node_modules/one/dist/index.js app/node_modules/@scope/two/package.json " +
				"app/node_modules/@scope/two/lib/sub.cjs node_modules/three/package.json node_modules/three/three.mjs node_modules/four/index.js node_modules/four/x.js",
		},
		"a program of a package": {
			[]string{"/app/node_modules/.bin/tool"}, content{
				"app/node_modules/.bin/tool": "-> ../tool/cli.js", "app/node_modules/tool/cli.js": large("#!/usr/bin/env node\nrequire('../dep')"),
				"app/node_modules/dep.js": large(""),
			}, "app/node_modules/tool/cli.js usr/bin/env app/node_modules/dep.js",
		},
		"npm start": {
			[]string{"npm", "start"}, content{
				"usr/bin/npm": "-> ../lib/npm-cli.js", "usr/lib/npm-cli.js": large("#!/usr/bin/env node\n"), "package.json": large(`{"scripts": {"start": "node server"}}`),
				"server.js": large(""),
			}, "usr/lib/npm-cli.js usr/bin/env package.json bin/sh server.js",
		},
		"preloaded":        {[]string{"node", "-r", "./pre", "--import=./pre2.mjs", "main.js"}, content{"pre.js": large(""), "pre2.mjs": large(""), "main.js": large("")}, "pre.js pre2.mjs main.js"},
		"what is not text": {[]string{"node", "main.js"}, content{"main.js": large("require('./a\x00b'); require(''); require('..'); require('/'); require(\x00"), "package.json": large("[[")}, "package.json main.js"},
	} {
		var got []string
		for _, file := range taken(t, entrypoint(test.command...), base, test.files) {
			if file != "usr/bin/node" {
				got = append(got, file)
			}
		}
		if got := strings.Join(got, " "); got != test.want {
			t.Errorf("%s:\n%s, want\n%s", name, got, test.want)
		}
	}
}
