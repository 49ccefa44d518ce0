package rules

import (
	"slices"
	"strings"
)

// What commands run that are given it as a text, or by an option.

// script visits words as a text of shell.
func (w *shellWalker) script(c *shellCommand, words []shellWord, at shellPlace) {
	for _, word := range words {
		if word.unknown {
			c.dynamic = true
			c.hide(word.computed || strings.Contains(word.text, "$(") || strings.TrimSpace(word.bare) == "")
		}
	}
	if !w.text(strings.Join(texted(words), " "), at) {
		c.hide(true)
	}
}

// streamed tells whether a script comes from somewhere that holds no file.
func streamed(file shellWord) bool {
	return strings.HasPrefix(file.text, "<(") || file.text == "-" || file.text == "/dev/stdin" || file.computed ||
		strings.HasPrefix(file.text, "/dev/fd/") || strings.HasPrefix(file.text, "/proc/")
}

// interpreter visits a shell that is given a text or a file.
func (w *shellWalker) interpreter(c *shellCommand, at, inner shellPlace) {
	c.wraps = true
	w.emit(c, at)
	text := false
	for i := 0; i < len(c.args); i++ {
		a := c.args[i].text
		switch {
		case a == "--rcfile" || a == "--init-file" || a == "-o" || a == "-O" || a == "+o" || a == "+O":
			if i++; i < len(c.args) && a != "-o" && a != "+o" {
				c.hide(streamed(c.args[i]))
			}
		case strings.HasPrefix(a, "-") && !strings.HasPrefix(a, "--") && strings.Contains(a, "c"):
			text = true
		case len(a) > 1 && (a[0] == '-' || a[0] == '+'):
		case text:
			w.set("@", c.args[i+1:]...)
			if i+1 < len(c.args) {
				w.set("0", c.args[i+1])
			}
			w.script(c, c.args[i:i+1], inner)
			return
		default:
			c.script = c.args[i : i+1]
			if streamed(c.args[i]) {
				w.reads(c, at, inner)
				c.hide(len(at.stdin) == 0)
			}
			return
		}
	}
	if text {
		c.hide(true) // -c with nothing that is known behind it
		return
	}
	w.reads(c, at, inner)
}

// reads visits what a shell reads as its script.
func (w *shellWalker) reads(c *shellCommand, at, inner shellPlace) {
	inner.stdin, inner.piped = nil, false
	for _, text := range at.stdin {
		if !w.text(text, inner) {
			c.hide(true)
		}
	}
	c.hide(at.piped)
	for _, r := range slices.Concat(at.reads, at.writes) {
		c.hide(streamed(r) || strings.HasPrefix(r.text, "/dev/tcp/") || strings.HasPrefix(r.text, "/dev/udp/"))
	}
}

// find visits what find runs with the files that it finds.
func (w *shellWalker) find(c *shellCommand, at, inner shellPlace) {
	runs := false
	var inside [][]shellWord
	for i := 0; i < len(c.args); i++ {
		switch c.args[i].text {
		case "-exec", "-execdir", "-ok", "-okdir", "-x", "-X", "--exec", "--exec-batch":
			end := i + 1
			for end < len(c.args) && c.args[end].text != ";" && (c.args[end].text != "+" || c.args[end-1].text != "{}") {
				end++
			}
			runs = true
			inside = append(inside, c.args[i+1:end])
			i = end
		}
	}
	w.emit(c, at)
	c.feeds = c.feeds || runs
	inner.piped = true
	for _, words := range inside {
		w.call(words, inner)
	}
}

// given visits texts that options hold: su -c text, gcloud compute ssh --command=text.
func (w *shellWalker) given(c *shellCommand, inner shellPlace) {
	short := c.name == "su" || c.name == "runuser" || c.name == "script" || c.name == "vagrant"
	behind := c.name == "lxc" || c.name == "incus" || c.name == "runuser" || c.name == "gcloud"
	for i, a := range c.args {
		name, value, eq := strings.Cut(a.text, "=")
		switch {
		case name == "--command" || name == "--scripts" || name == "--session-command",
			short && cluster(a.text) && strings.HasSuffix(a.text, "c"), c.name == "doctl" && name == "--ssh-command",
			c.name == "ansible" && (a.text == "-a" || name == "--args"), a.text == "-C" && strings.HasPrefix(c.name, "fly"):
			word := shellWord{text: value, bare: value, unknown: a.unknown}
			if !eq && i+1 < len(c.args) {
				word = c.args[i+1]
			}
			w.script(c, []shellWord{word}, inner)
		case a.text == "--" && behind && i+1 < len(c.args) && !strings.HasPrefix(c.args[i+1].text, "-"):
			w.call(c.args[i+1:], inner)
			behind = false
		case c.name == "gdb" && i > 0 && (c.args[i-1].text == "-ex" || c.args[i-1].text == "--ex"):
			if text, ok := strings.CutPrefix(strings.Replace(a.text, "!", "shell ", 1), "shell "); ok {
				w.script(c, []shellWord{{text: text, unknown: a.unknown}}, inner)
			}
		case strings.HasPrefix(name, "commands") && eq: // aws ssm send-command --parameters commands=…
			w.script(c, []shellWord{{text: strings.Trim(value, `[]"'`), unknown: a.unknown}}, inner)
		}
	}
}

// aliased visits a command whose name is an alias: its words with these behind.
func (w *shellWalker) aliased(name string, args []shellWord, at shellPlace) {
	values := w.vars["\x00alias "+name]
	if len(values) == 0 || slices.Contains(at.via, "alias "+name) || len(at.via) > maxShellDepth {
		return
	}
	at.via = append(slices.Clone(at.via), "alias "+name)
	for _, v := range values {
		var words []shellWord
		for f := range strings.FieldsSeq(v.text) {
			words = append(words, known(f))
		}
		w.call(append(words, args...), at)
	}
}

// runners are beginnings of words behind which a program stands that is run.
var runners = []string{"--checkpoint-action=exec=", "--to-command=", "--use-compress-program=", "--rsh=", "ProxyCommand=", "-oProxyCommand=", "LocalCommand=", "-oLocalCommand=", "ext::", "EXEC:", "SYSTEM:"}

// runs visits what words of a command tell it to run.
func (w *shellWalker) runs(c *shellCommand, at shellPlace) {
	at.via = append(slices.Clone(at.via), c.name)
	at.stdin, at.reads, at.writes = nil, nil, nil
	for i, a := range c.args {
		for _, r := range runners {
			if len(a.text) >= len(r) && strings.EqualFold(a.text[:len(r)], r) {
				w.script(c, []shellWord{{text: a.text[len(r):], unknown: a.unknown}}, at)
			}
		}
		if c.name == "rsync" && i > 0 && c.args[i-1].text == "-e" {
			w.script(c, []shellWord{a}, at)
		}
	}
}

// gitRuns visits what Git is told to run: -c core.pager=…, an alias with "!".
func (w *shellWalker) gitRuns(c *shellCommand, inner shellPlace) {
	sets := slices.ContainsFunc(c.args, func(a shellWord) bool { return a.text == "config" })
	for i, a := range c.args {
		if i+1 == len(c.args) {
			break
		}
		key, value := a.text, c.args[i+1].text
		if a.text == "-c" {
			key, value, _ = strings.Cut(c.args[i+1].text, "=")
		} else if !sets {
			continue
		}
		key = strings.ToLower(key)
		switch {
		case strings.HasPrefix(key, "alias.") && strings.HasPrefix(value, "!"), strings.HasPrefix(key, "credential.") && strings.HasPrefix(value, "!"):
			w.script(c, []shellWord{{text: value[1:], unknown: c.args[i+1].unknown}}, inner)
		case key == "core.pager", key == "core.sshcommand", key == "core.editor", key == "core.fsmonitor", key == "diff.external", strings.HasPrefix(key, "pager."):
			w.script(c, []shellWord{{text: value, unknown: c.args[i+1].unknown}}, inner)
		}
	}
}

// handed is the command that xargs runs, with the words that it reads if they
// stand in the text. What it puts into a text of shell at its beginning is a
// command that is not known.
func (w *shellWalker) handed(c *shellCommand, rest []shellWord, at shellPlace) []shellWord {
	var items []shellWord
	for _, text := range at.stdin {
		for f := range strings.FieldsSeq(text) {
			items = append(items, shellWord{text: f, bare: f, unknown: strings.HasPrefix(f, "$")})
		}
	}
	mark := ""
	if v, ok := valueOf(c.args, "-I"); ok {
		mark = v.text
	} else if slices.ContainsFunc(c.args, func(a shellWord) bool { return a.text == "-i" || a.text == "--replace" }) {
		mark = "{}"
	}
	if mark == "" {
		return append(slices.Clone(rest), items...)
	}
	var out []shellWord
	for _, r := range rest {
		if !strings.Contains(r.text, mark) {
			out = append(out, r)
			continue
		}
		for _, item := range items[:min(len(items), maxShellReadings)] {
			text := strings.ReplaceAll(r.text, mark, item.text)
			if len(text) > maxShellBytes {
				c.hide(true)
				break
			}
			out = append(out, shellWord{text: text, bare: text, unknown: item.unknown || r.unknown})
		}
		if len(items) == 0 {
			c.hide(strings.HasPrefix(strings.TrimSpace(r.text), mark) && len(rest) > 1 && shellNames[shellName(rest[0].text)] == "sh" || r.text == mark && shellName(rest[0].text) == "sh")
			out = append(out, r)
		}
	}
	return out
}

// execWords is the command behind kubectl exec pod, or dotenv run, without "--".
func execWords(program string, args []shellWord) []shellWord {
	for i := 0; i < len(args); i++ {
		if program == "dotenv" && args[i].text == "run" {
			return args[i+1:]
		}
		if args[i].text != "exec" || program != "kubectl" && program != "oc" {
			continue
		}
		pod := false
		for i++; i < len(args); i++ {
			switch a := args[i].text; {
			case a == "-c" || a == "-n" || a == "--container" || a == "--namespace" || a == "--context":
				i++
			case strings.HasPrefix(a, "-"):
			case pod:
				return args[i:]
			default:
				pod = true
			}
		}
	}
	return nil
}

// valueOf is what an option is given: in the next word, behind "=", or behind
// the letter itself.
func valueOf(args []shellWord, option string) (shellWord, bool) {
	for i, a := range args {
		switch rest, ok := strings.CutPrefix(a.text, option); {
		case !ok:
		case rest == "" && i+1 < len(args):
			return args[i+1], true
		case strings.HasPrefix(rest, "="):
			return shellWord{text: rest[1:], bare: rest[1:], unknown: a.unknown}, true
		case rest != "" && len(option) == 2:
			return shellWord{text: rest, bare: rest, unknown: a.unknown}, true
		}
	}
	return shellWord{}, false
}
