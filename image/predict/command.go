package predict

import (
	"bytes"
	"path"
	"slices"
	"strings"

	"github.com/brisk-project/brisk/image/index"
)

const (
	// maxDepth is how many programs may start each other, one through the other.
	maxDepth = 8
	// maxScript is the longest script in bytes that is read.
	maxScript = 256 << 10
	// maxCommands is the most commands of scripts that are looked at.
	maxCommands = 64
	// scriptLine is the longest first line of a script, as in Linux.
	scriptLine = 256
	// standardPath is where programs are looked for without a PATH.
	standardPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// command adds what the start of a command reads.
func (p *predictor) command(args []string) { p.start(args, 0) }

// start is command for one that depth others have led to.
func (p *predictor) start(args []string, depth int) {
	if len(args) == 0 || args[0] == "" || depth > maxDepth || p.spent {
		return
	}
	program, ok := p.lookPath(args[0])
	if !ok {
		p.note("the image has no program %.100q", args[0])
		return
	}
	head, err := p.head(program.node, scriptLine)
	if err != nil {
		p.note("%s: %v", program.path, err)
		return
	}
	p.started = true
	if line, script := bytes.CutPrefix(head, []byte("#!")); script {
		p.script(program, string(line), args, depth)
		return
	}
	f := p.parse(program)
	if f == nil {
		p.take(program.node)
		return
	}
	p.execute(program, f)
	p.behind(program, args, depth)
}

// script starts the interpreter of a script.
func (p *predictor) script(program place, line string, args []string, depth int) {
	line, _, _ = strings.Cut(line, "\n")
	interpreter, option, _ := strings.Cut(strings.TrimSpace(line), " ")
	command := []string{interpreter}
	if option = strings.TrimSpace(option); option != "" {
		command = append(command, option)
	}
	if program.node.size <= maxModule {
		p.take(program.node)
	}
	p.start(append(append(command, program.path), args[1:]...), depth+1)
}

// searchPath returns where programs are looked for.
func (p *predictor) searchPath() string {
	if list, ok := p.env["PATH"]; ok {
		return list
	}
	return standardPath
}

// lookPath finds a program as execvp does.
func (p *predictor) lookPath(name string) (place, bool) {
	if strings.Contains(name, "/") {
		return p.file(p.absolute(name))
	}
	for _, dir := range splitPath(p.searchPath()) {
		if found, ok := p.file(path.Join(p.absolute(dir), name)); ok && found.node.mode&0o111 != 0 {
			return found, true
		}
	}
	return place{}, false
}

// absolute returns a path as it is seen from the working directory.
func (p *predictor) absolute(name string) string {
	if path.IsAbs(name) {
		return name
	}
	return path.Join("/", p.cfg.Image.WorkingDir, name)
}

// behind adds what a program that runs others, or interprets a language, does with its arguments.
func (p *predictor) behind(program place, args []string, depth int) {
	names := []string{path.Base(args[0]), path.Base(program.path)}
	is := func(known ...string) bool {
		return slices.ContainsFunc(names, func(name string) bool { return slices.Contains(known, name) })
	}
	language := func(prefix string) bool {
		return slices.ContainsFunc(names, func(name string) bool {
			version, ok := strings.CutPrefix(name, prefix)
			return ok && strings.Trim(version, "0123456789.") == ""
		})
	}
	rest := args[1:]
	if is("busybox") && !is("sh", "ash", "env") && names[0] == "busybox" && len(rest) > 0 {
		names[0], rest = rest[0], rest[1:] // the name of the applet
	}
	switch {
	case is("env"):
		p.start(afterEnv(rest), depth+1)
	case is("sh", "bash", "dash", "ash", "ksh", "zsh"):
		p.shell(rest, depth)
	case is("tini", "tini-static", "docker-init"):
		p.start(afterOptions(rest, "-p", "-e"), depth+1)
	case is("dumb-init", "catatonit"):
		p.start(afterOptions(rest, "-r", "--rewrite"), depth+1)
	case is("nice", "ionice", "nohup", "stdbuf"):
		p.start(afterOptions(rest, "-n", "-c", "-i", "-o", "-e"), depth+1)
	case is("gosu", "su-exec", "chpst", "setpriv", "chroot", "timeout", "numactl"):
		rest = afterOptions(rest, "-u", "-g", "-k", "-s")
		if is("gosu", "su-exec", "chroot", "timeout") && len(rest) > 0 {
			rest = rest[1:] // the user, directory or time
		}
		p.start(rest, depth+1)
	case language("node"), is("nodejs"):
		p.nodeJS(rest, depth)
	case language("python"):
		p.python(args[0], program, rest)
	case is("java"):
		p.java(program, rest)
	default:
		p.argument(rest, is)
	}
}

// argument adds the file that an interpreter of another language is given.
func (p *predictor) argument(rest []string, is func(...string) bool) {
	if !is("ruby", "perl", "php", "lua", "Rscript", "deno", "bun") {
		return
	}
	for _, arg := range rest {
		if f, ok := p.file(p.absolute(arg)); ok && !strings.HasPrefix(arg, "-") && f.node.kind == index.TypeReg {
			p.take(f.node)
			return
		}
	}
}

// afterEnv returns the command that env runs.
func afterEnv(args []string) []string {
	for len(args) > 0 {
		arg := args[0]
		name, _, assigns := strings.Cut(arg, "=")
		switch {
		case arg == "-S" || strings.HasPrefix(arg, "-S") || strings.HasPrefix(arg, "--split-string="):
			_, command, _ := strings.Cut(arg, "=")
			if short, ok := strings.CutPrefix(arg, "-S"); ok {
				command = short
			}
			rest := args[1:]
			if command == "" && len(rest) > 0 {
				command, rest = rest[0], rest[1:]
			}
			return afterEnv(append(strings.Fields(command), rest...))
		case arg == "-u" || arg == "-C":
			args = args[min(2, len(args)):]
		case arg == "--":
			return args[1:]
		case strings.HasPrefix(arg, "-") || assigns && !strings.Contains(name, "/"):
			args = args[1:]
		default:
			return args
		}
	}
	return nil
}

// afterOptions returns the arguments after the options. Those that are named take a value.
func afterOptions(args []string, valued ...string) []string {
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		if args[0] == "--" {
			return args[1:]
		}
		skipped := 1
		if slices.Contains(valued, args[0]) {
			skipped = 2
		}
		args = args[min(skipped, len(args)):]
	}
	return args
}
