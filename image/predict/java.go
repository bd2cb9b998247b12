package predict

import (
	"path"
	"slices"
	"strings"
)

const (
	// usedArchive is how much is read of a program in a .jar: its directory is at its end, and its
	// classes are scattered.
	usedArchive = 64 << 20
	// usedImage is how much is read of the image of the classes of Java.
	usedImage = 32 << 20
)

// java adds what Java loads with these arguments.
func (p *predictor) java(program place, args []string) {
	home := path.Dir(program.dir())
	for _, name := range []string{"lib/libjli.so", "lib/jvm.cfg", "lib/server/libjvm.so", "lib/server/classes.jsa", "lib/libjimage.so", "lib/libjava.so", "lib/libzip.so"} {
		file, ok := p.file(path.Join(home, name))
		switch {
		case !ok:
		case strings.HasSuffix(name, ".so") && p.loader != nil:
			p.loader.open(file)
		default:
			p.take(file.node)
		}
	}
	if modules, ok := p.file(path.Join(home, "lib/modules")); ok {
		p.take(modules.node, extent{0, usedImage})
	}
	if i := slices.Index(args, "-jar"); i >= 0 && i+1 < len(args) {
		if jar, ok := p.file(p.absolute(args[i+1])); ok {
			end := max(0, jar.node.size-readAhead)
			p.take(jar.node, extent{end, readAhead}, extent{0, min(end, usedArchive)})
		}
	}
	for _, name := range []string{"lib/libnio.so", "lib/libnet.so"} {
		if file, ok := p.file(path.Join(home, name)); ok && p.loader != nil {
			p.loader.open(file)
		}
	}
}
