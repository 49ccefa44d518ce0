package rules

import (
	"fmt"
	"slices"
	"strings"
)

// shellDoes tells what a text of shell does. Conditions and loops are not
// followed: whatever stands in the text is told as being run.
func shellDoes(f *shellFacts) []string {
	if !f.parsed {
		return []string{"cannot be parsed as shell, so what it does cannot be told: read it yourself (" + f.err + ")"}
	}
	var all []doing
	room := 8 // for SQL within
	for _, c := range f.commands {
		all = append(all, c.does(&room))
	}
	var out []string
	if steered := f.steered(); len(steered) > 0 {
		var d doing
		d.sayAll("sets ", steered)
		d.then("· decides what programs run, or what they load: their names do not tell it")
		out = append(out, d.line(""))
	}
	out = append(out, doings(all, either(len(all) == 1, "command", "commands"))...)
	if len(all) == 0 {
		out = append(out, "runs no command: it sets variables or defines functions")
	}
	if f.hidden || f.dynamic && !slices.ContainsFunc(f.commands, func(c *shellCommand) bool { return c.dynamic }) {
		out = append(out, "sets a variable that programs run, to something that is known only when it runs: what that does cannot be told")
	}
	return out
}

// does tells what one command does.
func (c *shellCommand) does(room *int) doing {
	name := shellName(c.name)
	if alias, ok := shellNames[name]; ok {
		name = alias
	}
	program := c.program
	if program == "" {
		program = c.name
	}
	d := doing{kind: word(program, '\''), grave: !c.quiet(name)}
	if len(c.via) > 0 {
		var via []string
		for _, v := range c.via {
			via = append(via, word(v, '\''))
		}
		d.sayAll("by ", via)
		d.parts[len(d.parts)-1] += ":"
	}
	if c.name == "<" {
		d.say("takes in a file")
	} else {
		d.say("runs %s", word(program, '\''))
	}
	unknown := false
	for _, a := range c.args {
		d.parts = append(d.parts, word(a.text, '\''))
		unknown = unknown || a.unknown
	}
	// What matters more than its words stands where it is not left out.
	if to := shownFiles(c.writes); len(to) > 0 {
		d.grave = true
		d.then("· writes to %s", strings.Join(to, ", "))
	}
	if from := shownFiles(c.reads); len(from) > 0 {
		d.then("· reads from %s", strings.Join(from, ", "))
	}
	switch {
	case c.piped && c.unsure:
		d.then("· is fed by another command, and runs what that says: what it does cannot be told")
	case c.unsure:
		d.then("· what it runs cannot be told from the text")
	case c.piped:
		d.then("· is fed by another command")
	}
	if c.dynamic && !c.unsure {
		d.then("· depends on what is known only when it runs")
	} else if unknown {
		d.then("· some words are known only when it runs")
	}
	if n := len(c.stdin); n > 0 && !c.piped {
		d.then("· is given a text")
	}
	if reaching[name] || name == "git" && slices.ContainsFunc(c.args, func(a shellWord) bool { return gitReaching[a.text] }) {
		d.then("· reaches the network")
	}
	if c.defined {
		d.then("· which the text itself defines")
	}
	for _, text := range c.sqlTexts(name) {
		if d.grave = true; *room == 0 {
			d.then("· SQL that is not told here: read it yourself")
			break
		}
		*room--
		for _, line := range sqlDoes(parseSQL(text)) {
			d.then("· SQL: %s", line)
		}
	}
	return d
}

// shownFiles spells files of redirections, those that hold nothing aside.
func shownFiles(words []shellWord) []string {
	var out []string
	for _, w := range words {
		switch w.text {
		case "/dev/null", "/dev/stdout", "/dev/stderr", "/dev/tty":
		default:
			out = append(out, word(w.text, '\''))
		}
	}
	if len(out) > 4 {
		out = append(out[:4], fmt.Sprintf("%d more", len(out)-4))
	}
	return out
}

// steered names the variables that the text sets, or has a command set, and that
// decide what a program is or loads.
func (f *shellFacts) steered() []string {
	out := f.steers
	for _, c := range f.commands {
		if assigning[c.name] {
			for _, a := range c.args {
				if shellSteering[a.text] {
					out = union(out, []string{a.text})
				}
			}
		}
	}
	return out
}

// quiet tells whether a command only prints, looks or computes.
func (c *shellCommand) quiet(name string) bool {
	return looking[name] && !c.dynamic && !c.defined && (c.program == "" || c.program == c.name) && !c.alters(name)
}

// alters tells whether the words of a command that else only looks may have it
// write a file, run a program, or set what it else tells.
func (c *shellCommand) alters(name string) bool {
	operands := 0
	for _, a := range c.args {
		option := len(a.text) > 1 && a.text[0] == '-'
		switch {
		case !option:
			operands++
		case name == "sort" && (a.text[1] != '-' && strings.ContainsRune(a.text, 'o') || strings.HasPrefix(a.text, "--o") || strings.HasPrefix(a.text, "--co")),
			name == "date" && (a.text[1] != '-' && strings.ContainsRune(a.text, 's') || strings.HasPrefix(a.text, "--s")),
			name == "hostname" && strings.HasPrefix(a.text, "-F"):
			return true
		}
		switch name {
		case "sort", "uniq", "date", "hostname":
			if a.unknown {
				return true
			}
		}
	}
	return name == "uniq" && operands > 1 || name == "hostname" && operands > 0 ||
		name == "date" && slices.ContainsFunc(c.args, func(a shellWord) bool { return strings.Trim(a.text, "0123456789.") == "" })
}

var (
	looking     = setOf("echo printf true false test [ : pwd cd ls sleep exit return date whoami id uname hostname basename dirname wc head tail sort uniq cut tr seq cat grep egrep fgrep set shift local export readonly declare typeset unset read break continue wait popd pushd")
	reaching    = setOf("curl wget nc ncat netcat socat telnet ssh scp sftp rsync ftp tftp mosh ping dig nslookup host nmap lynx aria2c http https xh openssl smbclient mail sendmail")
	assigning   = setOf("read printf mapfile readarray getopts unset declare typeset local export readonly")
	gitReaching = setOf("push pull fetch clone ls-remote")
)
