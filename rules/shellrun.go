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
	for _, r := range at.reads {
		c.hide(streamed(r))
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
	for i, a := range c.args {
		name, value, eq := strings.Cut(a.text, "=")
		switch {
		case name == "--command" || name == "--scripts" || name == "--session-command",
			short && a.text == "-c", a.text == "-C" && strings.HasPrefix(c.name, "fly"):
			word := shellWord{text: value, bare: value, unknown: a.unknown}
			if !eq && i+1 < len(c.args) {
				word = c.args[i+1]
			}
			w.script(c, []shellWord{word}, inner)
		case a.text == "--" && (c.name == "lxc" || c.name == "incus"):
			w.call(c.args[i+1:], inner)
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
			if text, ok := strings.CutPrefix(a.text, r); ok {
				w.script(c, []shellWord{{text: text, unknown: a.unknown}}, at)
			}
		}
		if c.name == "rsync" && i > 0 && c.args[i-1].text == "-e" {
			w.script(c, []shellWord{a}, at)
		}
	}
}

// gitRuns visits what Git is told to run: -c core.pager=…, an alias with "!".
func (w *shellWalker) gitRuns(c *shellCommand, inner shellPlace) {
	for i, a := range c.args {
		if a.text != "-c" || i+1 == len(c.args) {
			continue
		}
		key, value, _ := strings.Cut(c.args[i+1].text, "=")
		key = strings.ToLower(key)
		switch {
		case strings.HasPrefix(key, "alias.") && strings.HasPrefix(value, "!"), strings.HasPrefix(key, "credential.") && strings.HasPrefix(value, "!"):
			w.script(c, []shellWord{{text: value[1:], unknown: c.args[i+1].unknown}}, inner)
		case key == "core.pager", key == "core.sshcommand", key == "core.editor", key == "core.fsmonitor", key == "diff.external", strings.HasPrefix(key, "pager."):
			w.script(c, []shellWord{{text: value, unknown: c.args[i+1].unknown}}, inner)
		}
	}
}
