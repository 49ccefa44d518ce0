package rules

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// What shell(text) answers: facts about every command that a text of shell
// runs, however deeply it is nested: in substitutions, in what bash -c, eval,
// ssh or find -exec are given, behind sudo, env and xargs. The parser is that
// of shfmt (Bash's grammar; where that refuses a text, POSIX's). Words are as
// the shell reads them: quotes and escapes taken off, braces expanded,
// variables that the text itself sets filled in with each value that they get.
//
// A text that cannot be read has parsed false, an error, and dynamic true; to
// ask for its lists is an error of the condition, by which a deny or approve
// rule matches and an allow rule does not.
//
// What no parse can show: what a program does with its arguments, what is in
// a script that is run by its name, and what the environment holds.
type shellFacts struct {
	parsed   bool
	err      string
	commands []*shellCommand // in the order of the text; one that another runs follows it
	names    []string        // theirs, each once
	reads    []string        // files of redirections
	writes   []string
	multiple bool // more than one command
	dynamic  bool // runs what is known only when it runs
	pipes    bool
	nested   bool        // a command stands inside another: $(…), bash -c, sudo, find -exec
	heredocs bool        // here-documents and here-strings
	hidden   bool        // a variable that a program runs is set to what is not known
	steers   []string    // variables that decide what a program is or loads, and that the text sets
	dirs     []shellWord // that the text goes to
}

// A shellCommand is one command that is run.
type shellCommand struct {
	name    string // without its folder: cat for /bin/cat
	program string // with it, as the text spells it
	args    []shellWord
	via     []string // what runs it: sudo, env, bash…, the outermost first
	reads   []shellWord
	writes  []shellWord
	stdin   []string // here-documents and here-strings, and what echo pipes into it
	piped   bool     // reads what another writes
	feeds   bool     // what it writes becomes words of a command: xargs, while read, $(…)
	nested  bool
	dynamic bool        // runs what is known only when it runs, or a variable spells its name
	unsure  bool        // what it runs is nowhere in the text
	wraps   bool        // runs another command, which has an entry of its own
	script  []shellWord // the file that a shell is given
	defined bool        // a function or an alias of the text bears its name
}

// A shellWord is a word as far as it is known before it runs.
type shellWord struct {
	text     string // what is not known as the text spells it: $x, $(…)
	bare     string // the same without what is not known
	unknown  bool   // holds something that is known only when it runs
	computed bool   // which the shell makes of texts that are here: ${x%y}, $(… | base64 -d)
	variable bool   // holds an expansion, known or not
	indirect bool   // which names another: ${!x}
	glob     bool   // holds *, ? or [ that the shell matches with files
}

const (
	maxShellBytes = 64 << 10
	// maxShellNested bounds all texts that are read inside of one: a text
	// within eval within bash -c is read again at each level.
	maxShellNested = 256 << 10
	maxShellDepth  = 8
	// maxShellOpen bounds what may nest, and so the parser's stack: nothing
	// nests without one of these.
	maxShellOpen     = 3000
	maxShellCommands = 4000
	maxShellWords    = 40_000
	maxShellError    = 200
)

// parseShell reads a text. It never fails: what it cannot read is unreadable.
func parseShell(text string) (f *shellFacts) {
	defer func() {
		if p := recover(); p != nil {
			f = unreadableShell("the shell parser broke on this text")
		}
	}()
	file, err := shellSyntax(text)
	if err != nil {
		return unreadableShell(err.Error())
	}
	w := &shellWalker{vars: map[string][]shellWord{}, funcs: map[string]bool{}}
	// Twice: what a variable may hold is known when all of the text was seen.
	for range 2 {
		if w.over {
			break
		}
		w.facts, w.parts, w.budget, w.words = &shellFacts{parsed: true}, map[syntax.WordPart][][]shellWord{}, maxShellNested, 0
		w.stmts(file.Stmts, shellPlace{})
	}
	f = w.facts
	if w.over {
		return unreadableShell("holds more commands or words than are looked at")
	}
	for _, c := range f.commands {
		f.names = union(f.names, []string{c.name})
		f.dynamic = f.dynamic || c.dynamic
		f.nested = f.nested || c.nested
		f.reads, f.writes = union(f.reads, texted(c.reads)), union(f.writes, texted(c.writes))
	}
	f.multiple = len(f.commands) > 1
	f.dynamic = f.dynamic || len(f.steers) > 0
	f.dirs = folders(w.vars["\x00cd"])
	return f
}

// folders are where relative paths may begin: each folder that the text goes
// to, and each as seen from the others.
func folders(to []shellWord) []shellWord {
	out := slices.Clone(to[:min(len(to), maxFolders)])
	for _, a := range to {
		for _, b := range to {
			if !b.unknown && !strings.HasPrefix(b.text, "/") && !strings.HasPrefix(b.text, "~") && len(out) < maxFolders {
				out = append(out, known(a.text+"/"+b.text))
			}
		}
	}
	return out
}

func unreadableShell(why string) *shellFacts {
	if len(why) > maxShellError {
		why = strings.ToValidUTF8(why[:maxShellError], "") + "…"
	}
	return &shellFacts{err: why, multiple: true, dynamic: true, pipes: true, nested: true, heredocs: true}
}

func texted(words []shellWord) []string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = w.text
	}
	return out
}

// shellSyntax parses a text, within bounds.
func shellSyntax(text string) (*syntax.File, error) {
	switch {
	case len(text) > maxShellBytes:
		return nil, fmt.Errorf("longer than %d bytes", maxShellBytes)
	case strings.ContainsRune(text, 0):
		return nil, errors.New("holds a NUL byte")
	case strings.TrimSpace(text) == "":
		return nil, errors.New("holds no command")
	case shellOpenings(text) > maxShellOpen:
		return nil, errors.New("may nest too deep")
	}
	file, err := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(strings.NewReader(text), "")
	if err == nil {
		return file, nil
	}
	if file, posix := syntax.NewParser(syntax.Variant(syntax.LangPOSIX)).Parse(strings.NewReader(text), ""); posix == nil {
		return file, nil
	}
	return nil, err
}

var shellKeywords = []string{"if", "elif", "while", "until", "for", "case", "select", "function", "time", "coproc"}

// shellOpenings counts whatever may open a level of the syntax tree. In
// arithmetic and tests each operator does.
func shellOpenings(text string) int {
	n := strings.Count(text, "(") + strings.Count(text, "{") + strings.Count(text, "`") + strings.Count(text, "[")
	if strings.Contains(text, "((") || strings.Contains(text, "[") || strings.Contains(text, "${") || strings.Contains(text, "let") {
		for _, op := range "!~-+?=*<>&|^,%/:" {
			n += strings.Count(text, string(op)) / 4
		}
	}
	n += strings.Count(text, "! ")
	for _, k := range shellKeywords {
		n += strings.Count(text, k+" ") + strings.Count(text, k+"\n") + strings.Count(text, k+"\t")
	}
	return n
}
