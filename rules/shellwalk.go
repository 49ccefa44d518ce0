package rules

import (
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// A shellPlace is where a statement stands.
type shellPlace struct {
	depth  int // of texts within texts
	nested bool
	piped  bool
	feeds  bool
	via    []string
	stdin  []string
	reads  []shellWord
	writes []shellWord
}

// A shellWalker visits what a text runs.
type shellWalker struct {
	facts  *shellFacts
	vars   map[string][]shellWord // what the text sets; "@" are the positional ones
	funcs  map[string]bool        // functions and aliases
	parts  map[syntax.WordPart][][]shellWord
	budget int // bytes of nested texts
	words  int
	over   bool
	ifs    bool // the text says where words are split
}

// text visits a text within the text.
func (w *shellWalker) text(text string, at shellPlace) bool {
	at.depth++
	w.budget -= len(text) + 64
	if at.depth > maxShellDepth || w.budget < 0 {
		return false
	}
	file, err := shellSyntax(text)
	if err != nil {
		return strings.TrimSpace(text) == ""
	}
	at.nested = true
	w.stmts(file.Stmts, at)
	return true
}

func (w *shellWalker) stmts(stmts []*syntax.Stmt, at shellPlace) {
	for _, s := range stmts {
		w.stmt(s, at)
	}
}

func (w *shellWalker) stmt(s *syntax.Stmt, at shellPlace) {
	if s == nil || w.over {
		return
	}
	for _, r := range s.Redirs {
		w.redirect(r, &at)
	}
	switch c := s.Cmd.(type) {
	case nil:
		if len(at.reads) > 0 || len(at.writes) > 0 { // $(< file)
			w.emit(&shellCommand{name: "<"}, at)
		}
	case *syntax.CallExpr:
		for _, a := range c.Assigns {
			w.assign(a)
			w.ifs = w.ifs || len(c.Args) == 0 && a.Name != nil && a.Name.Value == "IFS"
		}
		var words []shellWord
		for _, word := range c.Args {
			words = append(words, w.word(word)...)
			if w.over = w.over || len(words) > maxShellWords; w.over {
				return
			}
		}
		w.call(words, at)
	case *syntax.BinaryCmd:
		w.binary(c, at)
	case *syntax.DeclClause:
		w.declare(c, at)
	case *syntax.ForClause:
		switch loop := c.Loop.(type) {
		case *syntax.WordIter:
			var items []shellWord
			for _, item := range loop.Items {
				items = append(items, w.word(item)...)
			}
			w.set(loop.Name.Value, items...)
		case *syntax.CStyleLoop:
			w.inside(loop, at)
		}
		w.stmts(c.Do, at)
	case *syntax.FuncDecl:
		if c.Name != nil {
			w.funcs[c.Name.Value] = true
		}
		w.stmt(c.Body, at)
	case *syntax.Block:
		w.stmts(c.Stmts, at)
	case *syntax.Subshell:
		w.stmts(c.Stmts, at)
	case *syntax.IfClause:
		for ; c != nil; c = c.Else {
			w.stmts(c.Cond, at)
			w.stmts(c.Then, at)
		}
	case *syntax.WhileClause:
		w.stmts(c.Cond, at)
		w.stmts(c.Do, at)
	case *syntax.CaseClause:
		w.word(c.Word)
		for _, item := range c.Items {
			for _, p := range item.Patterns {
				w.word(p)
			}
			w.stmts(item.Stmts, at)
		}
	case *syntax.TimeClause:
		w.stmt(c.Stmt, at)
	case *syntax.CoprocClause:
		w.stmt(c.Stmt, at)
	default: // arithmetic, tests
		w.inside(c, at)
	}
}

// binary visits a list or a pipeline. The tree leans to the left, as long as
// the text is: its left sides are a loop.
func (w *shellWalker) binary(c *syntax.BinaryCmd, at shellPlace) {
	var stages []*syntax.Stmt
	var ops []syntax.BinCmdOperator
	left := &syntax.Stmt{Cmd: c}
	for {
		b, ok := left.Cmd.(*syntax.BinaryCmd)
		if !ok || len(left.Redirs) > 0 {
			break
		}
		stages, ops = append(stages, b.Y), append(ops, b.Op)
		left = b.X
	}
	stages = append(stages, left)
	slices.Reverse(stages)
	slices.Reverse(ops)
	pipe := func(op syntax.BinCmdOperator) bool { return op == syntax.Pipe || op == syntax.PipeAll }
	feeds := make([]bool, len(stages))
	for i := len(stages) - 2; i >= 0; i-- {
		feeds[i] = pipe(ops[i]) && (feeds[i+1] || w.takesWords(stages[i+1]))
	}
	var written []string // by the stage before, if that is known
	for i, s := range stages {
		here := at
		here.feeds = at.feeds || feeds[i]
		if i > 0 && pipe(ops[i-1]) {
			w.facts.pipes = true
			here.piped = true
			here.stdin = written
		}
		w.stmt(s, here)
		written = w.echoed(s)
	}
}

// takesWords tells whether a stage of a pipeline makes words of what it reads.
func (w *shellWalker) takesWords(s *syntax.Stmt) bool {
	call, ok := s.Cmd.(*syntax.CallExpr)
	if !ok {
		return true // a loop, a block
	}
	for _, word := range call.Args {
		switch shellName(word.Lit()) {
		case "xargs", "parallel", "cpio", "rsync", "tar", "pax", "read", "mapfile", "readarray", "sh", "bash", "dash", "zsh", "ksh":
			return true
		}
	}
	return false
}

// echoed is what a stage that was just visited writes, if that is a text that
// stands here.
func (w *shellWalker) echoed(s *syntax.Stmt) []string {
	if _, ok := s.Cmd.(*syntax.CallExpr); !ok || len(w.facts.commands) == 0 {
		return nil
	}
	switch c := w.facts.commands[len(w.facts.commands)-1]; c.name {
	case "echo", "printf":
		return []string{strings.Join(texted(c.args), " ")}
	case "cat", "tee":
		return c.stdin
	}
	return nil
}

func (w *shellWalker) redirect(r *syntax.Redirect, at *shellPlace) {
	if r.Hdoc != nil {
		w.facts.heredocs = true
		at.stdin = append(slices.Clone(at.stdin), w.document(r))
		return
	}
	words := w.word(r.Word)
	switch r.Op {
	case syntax.WordHdoc:
		w.facts.heredocs = true
		at.stdin = append(slices.Clone(at.stdin), strings.Join(texted(words), " "))
	case syntax.RdrIn:
		at.reads = append(slices.Clone(at.reads), words...)
	case syntax.RdrInOut:
		at.reads = append(slices.Clone(at.reads), words...)
		at.writes = append(slices.Clone(at.writes), words...)
	case syntax.DplIn, syntax.DplOut: // <&3, >&2; >&file writes
		for _, word := range words {
			if r.Op == syntax.DplOut && strings.Trim(word.text, "0123456789-") != "" {
				at.writes = append(slices.Clone(at.writes), word)
			}
		}
	default:
		at.writes = append(slices.Clone(at.writes), words...)
	}
}

// inside visits the substitutions in a part of the tree that has no commands
// of its own.
func (w *shellWalker) inside(n syntax.Node, at shellPlace) {
	at.nested = true
	syntax.Walk(n, func(n syntax.Node) bool {
		switch n := n.(type) {
		case *syntax.CmdSubst:
			w.stmts(n.Stmts, at)
			return false
		case *syntax.ProcSubst:
			w.stmts(n.Stmts, at)
			return false
		case *syntax.Word:
			w.word(n)
			return false
		}
		return true
	})
}

func (w *shellWalker) declare(c *syntax.DeclClause, at shellPlace) {
	var words []shellWord
	named := false // declare -n: a name of a variable
	for _, a := range c.Args {
		w.assign(a)
		if a.Name == nil {
			option := a.Value.Lit()
			named = named || cluster(option) && strings.Contains(option, "n")
		} else if named && a.Value != nil {
			w.set(a.Name.Value, shellWord{text: "$" + a.Value.Lit(), unknown: true, variable: true})
		}
		switch {
		case a.Name == nil:
			words = append(words, w.word(a.Value)...)
		case a.Naked:
			words = append(words, known(a.Name.Value))
		default:
			value := known(a.Name.Value + "=")
			words = append(words, value)
		}
	}
	w.emit(&shellCommand{name: c.Variant.Value, args: words}, at)
}

func (w *shellWalker) assign(a *syntax.Assign) {
	if a.Index != nil {
		w.inside(a.Index, shellPlace{})
	}
	if a.Name == nil || a.Naked {
		return
	}
	var values []shellWord
	if a.Array != nil {
		for _, e := range a.Array.Elems {
			if e.Value != nil {
				values = append(values, w.word(e.Value)...)
			}
		}
	} else if a.Value != nil {
		values = append(values, w.assigned(a.Value)...)
	} else {
		values = append(values, known(""))
	}
	if a.Append {
		for _, old := range slices.Clone(w.vars[a.Name.Value]) {
			for _, v := range values {
				w.set(a.Name.Value, joined(old, v))
			}
		}
	}
	w.set(a.Name.Value, values...)
	if shellSteering[a.Name.Value] {
		w.facts.steers = union(w.facts.steers, []string{a.Name.Value})
	}
	if shellTextVariables[a.Name.Value] {
		for _, v := range values {
			if !w.text(v.text, shellPlace{via: []string{a.Name.Value}}) || v.unknown {
				w.facts.dynamic, w.facts.hidden = true, true
			}
		}
	}
}

// shellTextVariables are variables that programs run.
var shellTextVariables = map[string]bool{
	"PROMPT_COMMAND": true, "GIT_SSH_COMMAND": true, "GIT_PAGER": true, "PAGER": true, "MANPAGER": true, "GIT_EDITOR": true,
	"EDITOR": true, "VISUAL": true, "GIT_ASKPASS": true, "SSH_ASKPASS": true, "GIT_EXTERNAL_DIFF": true, "LESSOPEN": true, "BROWSER": true,
	"RSYNC_RSH": true, "SUDO_ASKPASS": true, "GIT_SEQUENCE_EDITOR": true,
}

// shellSteering are variables by which a program becomes another, or loads code
// of somebody else's.
var shellSteering = setOf(`PATH LD_PRELOAD LD_LIBRARY_PATH LD_AUDIT DYLD_INSERT_LIBRARIES DYLD_LIBRARY_PATH BASH_ENV ENV BASH_ALIASES PS4 IFS SHELLOPTS BASHOPTS
	PYTHONPATH PYTHONHOME PYTHONSTARTUP NODE_OPTIONS NODE_PATH PERL5OPT PERL5LIB PERL5DB RUBYOPT RUBYLIB JAVA_TOOL_OPTIONS _JAVA_OPTIONS CLASSPATH
	GCONV_PATH GIT_EXEC_PATH GIT_CONFIG GIT_CONFIG_GLOBAL GIT_CONFIG_SYSTEM GIT_CONFIG_COUNT GIT_DIR GIT_TEMPLATE_DIR KUBECONFIG DOCKER_HOST DOCKER_CONFIG`)

const maxShellValues = 8

// set gives a variable one more of its values.
func (w *shellWalker) set(name string, values ...shellWord) {
	if name == "IFS" || name == "HOME" {
		return
	}
	for _, v := range values {
		if len(v.text) > 4096 {
			v = shellWord{text: "$" + name, unknown: true, computed: true}
		}
		have := w.vars[name]
		switch {
		case slices.Contains(have, v):
		case len(have) == maxShellValues:
			have[maxShellValues-1] = shellWord{text: "$" + name, unknown: true, computed: true}
		default:
			w.vars[name] = append(have, v)
		}
	}
}

// emit adds a command to the facts.
func (w *shellWalker) emit(c *shellCommand, at shellPlace) {
	w.words += len(c.args) + 1
	if len(w.facts.commands) >= maxShellCommands || w.words > maxShellWords {
		w.over = true
		return
	}
	c.via, c.reads, c.writes, c.stdin = at.via, at.reads, at.writes, at.stdin
	c.piped, c.feeds, c.nested = at.piped, at.feeds, at.nested
	c.defined = w.funcs[c.name]
	w.facts.commands = append(w.facts.commands, c)
}
