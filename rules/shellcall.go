package rules

import (
	"path"
	"slices"
	"strings"
)

// A shellWrapper is a program that runs another: how its words are told from
// the other's.
type shellWrapper struct {
	values   string // options that take the next word
	operands int    // words of its own before the command
	assigns  bool   // NAME=value before the command
	joins    bool   // the words are one text of shell, as ssh sends them
	dashes   bool   // the command stands behind "--" only
}

var shellWrappers = map[string]shellWrapper{
	"sudo":         {values: "-u -g -h -p -C -r -t -U -D -R -T --user --group --host --prompt --chdir --role --type --chroot --close-from --command-timeout --other-user", assigns: true},
	"doas":         {values: "-u -C"},
	"env":          {values: "-u -C -a --unset --chdir --argv0", assigns: true},
	"nohup":        {},
	"nice":         {values: "-n --adjustment"},
	"ionice":       {values: "-c -n -t --class --classdata"},
	"time":         {values: "-f -o --format --output"},
	"timeout":      {values: "-k -s --kill-after --signal", operands: 1},
	"stdbuf":       {values: "-i -o -e --input --output --error"},
	"setsid":       {},
	"builtin":      {},
	"command":      {},
	"exec":         {values: "-a"},
	"busybox":      {},
	"toybox":       {},
	"xargs":        {values: "-I -n -P -d -E -L -s -a --max-args --max-procs --delimiter --max-lines --replace --arg-file"},
	"strace":       {values: "-e -o -s -p -P -u -E -a -O -S -b -I"},
	"ltrace":       {values: "-e -o -s -p -u -n -a -l -A -D -F"},
	"flock":        {values: "-w -E --timeout --conflict-exit-code", operands: 1},
	"chroot":       {values: "--userspec --groups", operands: 1},
	"unshare":      {values: "-S -G -R -w --setuid --setgid --root --wd"},
	"nsenter":      {values: "-t -S -G --target --setuid --setgid"},
	"setpriv":      {values: "--reuid --regid --groups --inh-caps --ambient-caps --bounding-set"},
	"capsh":        {values: "--user --uid --gid"},
	"systemd-run":  {values: "-u -p -E -t --unit --property --setenv --uid --gid --slice"},
	"chpst":        {values: "-u -U -b -e -d -o -p -f -c -m -l -L -/ -n"},
	"gosu":         {operands: 1},
	"su-exec":      {operands: 1},
	"tini":         {values: "-p -e"},
	"dumb-init":    {values: "-r"},
	"unbuffer":     {},
	"rlwrap":       {},
	"catchsegv":    {},
	"faketime":     {operands: 1},
	"prlimit":      {},
	"taskset":      {operands: 1},
	"numactl":      {},
	"proot":        {values: "-r -b -w -R -S"},
	"firejail":     {},
	"bwrap":        {values: "--chdir --uid --gid --hostname --setenv --unsetenv"},
	"watch":        {values: "-n --interval", joins: true},
	"parallel":     {values: "-j --jobs -a -S --sshlogin", joins: true},
	"entr":         {},
	"direnv":       {operands: 2},
	"ssh":          {values: "-B -b -c -D -E -e -F -I -i -J -L -l -m -O -o -p -P -Q -R -S -W -w", operands: 1, joins: true},
	"mosh":         {values: "-p --ssh", operands: 1},
	"op":           {values: "--env-file --account", dashes: true},
	"aws-vault":    {dashes: true},
	"chamber":      {dashes: true},
	"doppler":      {dashes: true},
	"infisical":    {dashes: true},
	"dotenv":       {dashes: true},
	"dotenvx":      {dashes: true},
	"teller":       {dashes: true},
	"kubectl":      {dashes: true},
	"oc":           {dashes: true},
	"coproc":       {},
	"ld.so":        {},
	"poetry run":   {},
	"pipenv run":   {},
	"uv run":       {},
	"bundle exec":  {},
	"npm exec":     {dashes: true},
	"npm explore":  {dashes: true},
	"yarn exec":    {},
	"pnpm exec":    {},
	"pdm run":      {},
	"hatch run":    {},
	"conda run":    {values: "-n -p --name --prefix --cwd"},
	"heroku run":   {values: "-a --app -r --remote -s --size", joins: true},
	"mise exec":    {dashes: true},
	"rbenv exec":   {},
	"pyenv exec":   {},
	"npx":          {values: "-p --package"},
	"docker exec":  {values: "-e -u -w --env --env-file --user --workdir --detach-keys", operands: 1},
	"docker run":   {values: "-e -u -w -v -p -h -l -m --env --env-file --user --workdir --volume --publish --name --network --net --mount --entrypoint --hostname --label --memory --cpus --platform --add-host --cap-add --cap-drop --restart --device --dns --log-driver --shm-size --gpus --ipc --pid --userns --tmpfs --security-opt --pull", operands: 1},
	"compose exec": {values: "-e -u -w --env --user --workdir --index", operands: 1},
	"compose run":  {values: "-e -u -w -v -p --env --user --workdir --volume --publish --name --entrypoint", operands: 1},
}

// shellNames are programs that are another by a second name.
var shellNames = map[string]string{
	"podman": "docker", "nerdctl": "docker", "lima": "docker", "docker-compose": "compose", "podman-compose": "compose",
	"ash": "sh", "dash": "sh", "bash": "sh", "csh": "sh", "tcsh": "sh", "zsh": "sh", "ksh": "sh", "mksh": "sh", "rbash": "sh", "hush": "sh", "fish": "sh", "pdksh": "sh", "yash": "sh",
	"mamba": "conda", "micromamba": "conda", "gxargs": "xargs", "genv": "env", "gtimeout": "timeout", "gnice": "nice", "sudoedit": "sudo", "pkexec": "doas",
	"k": "kubectl", "kubecolor": "kubectl", "minikube": "kubectl", "k3s": "kubectl", "microk8s": "kubectl",
}

// shellName is the name of a program: without folder and case, ".exe" off.
func shellName(text string) string {
	name := strings.ToLower(path.Base(strings.ReplaceAll(text, "\\", "/")))
	name = strings.TrimSuffix(name, ".exe")
	if strings.HasPrefix(name, "ld-linux") || strings.HasPrefix(name, "ld-musl") {
		return "ld.so"
	}
	return name
}

// call visits a command by its words, and what it runs.
func (w *shellWalker) call(words []shellWord, at shellPlace) {
	for len(words) > 0 && words[0].text == "" && words[0].variable {
		words = words[1:]
	}
	if len(words) == 0 || w.over {
		return
	}
	first, args := words[0], words[1:]
	first.glob = first.glob && first.text != "[" // the test, not a bracket
	c := &shellCommand{name: path.Base(first.text), program: first.text, args: args, dynamic: first.variable || first.glob, unsure: first.unknown || first.computed || first.glob}
	name := shellName(first.text)
	if first.unknown && first.bare != "" && first.bare != first.text { // e$x nv
		w.call(append([]shellWord{known(first.bare)}, args...), at)
	}
	if w.funcs[first.text] {
		w.set("@", args...)
	}
	if first.variable && w.ifs {
		c.hide(true) // split where the text says
	}
	for i, a := range args { // git -C folder, env --chdir=folder
		switch option, folder, ok := strings.Cut(a.text, "="); option {
		case "-C", "--chdir", "--directory", "--cd":
			if ok {
				w.set("\x00cd", known(folder))
			} else if i+1 < len(args) {
				w.set("\x00cd", args[i+1])
			}
		default: // -C/folder
			if folder, ok := strings.CutPrefix(a.text, "-C"); ok && (strings.HasPrefix(folder, "/") || strings.HasPrefix(folder, "~")) {
				w.set("\x00cd", known(folder))
			}
		}
	}
	w.aliased(first.text, args, at)
	w.runs(c, at)
	if alias, ok := shellNames[name]; ok {
		name = alias
	}
	inner := at
	inner.via = append(slices.Clone(at.via), c.name)
	inner.nested = true
	switch name {
	case "sh":
		w.interpreter(c, at, inner)
		return
	case "eval":
		c.wraps = true
		w.emit(c, at)
		w.script(c, args, inner)
		return
	case "trap", "alias":
		w.emit(c, at)
		for i, a := range args {
			key, value, ok := strings.Cut(a.text, "=")
			switch {
			case name == "alias" && ok:
				w.funcs[key] = true
				w.set("\x00alias "+key, known(value))
				w.script(c, []shellWord{known(value)}, inner)
			case name == "trap" && len(args) > i+1 && (i == 0 || i == 1 && args[0].text == "--") && a.text != "--":
				w.script(c, args[i:i+1], inner)
			}
		}
		return
	case "source", ".":
		if len(args) > 0 {
			c.hide(streamed(args[0]))
		}
	case "cd", "pushd":
		if len(args) > 0 {
			w.set("\x00cd", args[len(args)-1])
		}
	case "set":
		if i := slices.IndexFunc(args, func(a shellWord) bool { return a.text == "--" }); i >= 0 {
			w.set("@", args[i+1:]...)
		}
	case "printf":
		if len(args) > 2 && args[0].text == "-v" {
			w.set(args[1].text, args[2:]...)
		}
	case "make", "gmake", "ansible-playbook":
		c.hide(slices.ContainsFunc(args, streamed))
	case "at", "batch", "crontab":
		w.reads(c, at, inner)
	case "read", "mapfile", "readarray":
		var values []shellWord
		for _, text := range at.stdin {
			for _, f := range strings.Fields(text) {
				values = append(values, shellWord{text: f, bare: f, unknown: strings.HasPrefix(f, "$")})
			}
		}
		values = values[:min(len(values), maxShellValues+1)] // what is more is not kept
		for _, a := range args {
			if !strings.HasPrefix(a.text, "-") {
				w.set(a.text, values...)
			}
		}
	case "find", "fd", "fdfind":
		w.find(c, at, inner)
		return
	case "su", "runuser", "script", "vagrant", "fly", "flyctl", "gcloud", "aws", "az", "heroku", "machinectl", "lxc", "incus", "ansible", "doctl", "gdb":
		w.given(c, inner)
	case "git":
		w.gitRuns(c, inner)
	}
	switch language(name) {
	case "vim", "vi", "ed", "ex", "view", "nvim", "emacs", "sed", "awk", "python", "perl", "ruby", "node", "php", "lua", "deno", "bun", "pwsh", "osascript", "tclsh", "expect",
		"jshell", "ghci", "guile", "rscript", "julia", "groovy", "scala", "kotlin", "elixir", "erl", "jrunscript", "ocaml", "raku", "cmd":
		c.hide(foreign(name, c, at))
	}
	wrap, rest, ok := w.wrapped(name, args)
	if !ok {
		w.emit(c, at)
		return
	}
	c.wraps = len(rest) > 0
	switch {
	case name == "xargs" && len(rest) > 0:
		w.emit(c, at)
		w.call(w.handed(c, rest, at), inner)
	case name == "parallel" && len(rest) > 1 && strings.HasPrefix(rest[0].text, ":::"):
		w.emit(c, at)
		for _, text := range rest[1:] {
			w.script(c, []shellWord{text}, inner)
		}
	case name == "command" && len(args) > 0 && (args[0].text == "-v" || args[0].text == "-V"):
		c.wraps = true
		w.emit(c, at)
	case len(rest) > 0 && wrap.joins:
		w.emit(c, at)
		w.script(c, rest, inner)
	case len(rest) > 0:
		w.emit(c, at)
		w.call(rest, inner)
	default:
		if name == "ssh" || name == "sudo" && slices.ContainsFunc(args, func(a shellWord) bool {
			return cluster(a.text) && strings.ContainsAny(a.text, "si") || a.text == "--shell" || a.text == "--login"
		}) {
			w.reads(c, at, inner)
		}
		w.emit(c, at)
	}
}

// wrapped finds the command within the words of one that may run another.
func (w *shellWalker) wrapped(name string, args []shellWord) (wrap shellWrapper, rest []shellWord, ok bool) {
	wrap, ok = shellWrappers[name]
	if !ok { // "docker exec": the subcommand may have options before it
		for i, a := range args[:min(len(args), 12)] {
			if wrap, ok = shellWrappers[name+" "+a.text]; ok {
				args = args[i+1:]
				break
			}
			if name == "docker" && a.text == "compose" {
				return w.wrapped("compose", args[i+1:])
			}
		}
		if !ok {
			return wrap, nil, false
		}
		if name == "docker" || name == "compose" {
			if entry, ok := valueOf(args, "--entrypoint"); ok {
				defer func() { rest = append([]shellWord{entry}, rest...) }()
			}
		}
	}
	if wrap.dashes {
		i := slices.IndexFunc(args, func(a shellWord) bool { return a.text == "--" })
		if i < 0 {
			return wrap, execWords(name, args), true
		}
		return wrap, args[i+1:], true
	}
	values := strings.Fields(wrap.values)
	operands := wrap.operands
	for i := 0; i < len(args); i++ {
		a := args[i].text
		eq := strings.IndexByte(a, '=')
		switch {
		case name == "env" && (strings.HasPrefix(a, "-S") || strings.HasPrefix(a, "--split-string") || strings.HasPrefix(a, "-") && !strings.HasPrefix(a, "--") && strings.HasSuffix(a, "S")):
			return wrap, w.splitString(args[i:]), true
		case a == "--":
			if operands == 0 {
				return wrap, args[i+1:], true
			}
		case slices.Contains(values, a):
			i++
		case len(a) > 1 && a[0] == '-' || a == "-" && name == "env":
		case wrap.assigns && eq > 0:
			w.set(a[:eq], shellWord{text: a[eq+1:], bare: a[eq+1:], variable: args[i].variable, unknown: args[i].unknown})
		case operands > 0:
			operands--
		default:
			return wrap, args[i:], true
		}
	}
	return wrap, nil, true
}

// splitString is the command that env -S makes of a text.
func (w *shellWalker) splitString(args []shellWord) []shellWord {
	first := args[0]
	text := strings.TrimPrefix(strings.TrimPrefix(first.text, "--split-string"), "=")
	if text == first.text {
		_, text, _ = strings.Cut(first.text, "S")
	}
	args = args[1:]
	if text == "" && len(args) > 0 {
		text, args = args[0].text, args[1:]
	}
	var out []shellWord
	for _, f := range strings.Fields(strings.NewReplacer(`\_`, " ", `"`, "", `'`, "").Replace(text)) {
		v := known(f)
		v.unknown = first.unknown
		out = append(out, v)
	}
	for len(out) > 0 && (strings.HasPrefix(out[0].text, "-") || strings.IndexByte(out[0].text, '=') > 0) {
		out = out[1:]
	}
	return append(out, args...)
}

// hide notes that what a command runs cannot be seen.
func (c *shellCommand) hide(is bool) {
	c.dynamic, c.unsure = c.dynamic || is, c.unsure || is
}
