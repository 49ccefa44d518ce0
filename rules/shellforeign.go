package rules

import (
	"regexp"
	"slices"
	"strings"
)

// Programs in other languages that stand in a command: python -c '…'. They can
// do anything, and say it in as many ways; so they are dynamic unless every
// name in them is one of those that only compute and print.

// codeOptions are the options that a text of code follows.
var codeOptions = map[string]string{
	"perl": "-i", "node": "-e -p --eval --print -pe", "php": "-r -b -e", "lua": "-e", "deno": "eval", "bun": "-e -p --eval --print", "pwsh": "-c -command -encodedcommand -enc -ec",
	"powershell": "-c -command -encodedcommand -enc -ec", "osascript": "-e", "tclsh": "-c", "expect": "-c", "guile": "-c", "rscript": "-e", "julia": "-e --eval --print",
	"groovy": "-e", "scala": "-e", "kotlin": "-e", "elixir": "-e --eval", "erl": "-eval", "jrunscript": "-e", "ocaml": "-e", "raku": "-e", "ghci": "-e",
	"vim": "-c +", "vi": "-c +", "nvim": "-c +", "ex": "-c +", "view": "-c +", "emacs": "--eval -e", "cmd": "/c /k",
}

// codeClusters are options of one letter each of which the last takes code,
// behind it or in the next word: -lne 'print', -Ic'import os'.
var codeClusters = map[string]*regexp.Regexp{
	"python": regexp.MustCompile(`^-[bBdEhiIOqsSuvVxP]*c(?s:(.*))$`),
	"perl":   regexp.MustCompile(`^-[0-9lnpawWsStTuUcgi]*[eE](?s:(.*))$`),
	"ruby":   regexp.MustCompile(`^-[0-9lnpawWsSi]*e(?s:(.*))$`),
}

// languages are interpreters that speak what another one does.
var languages = map[string]string{
	"pypy": "python", "ipython": "python", "bpython": "python", "nodejs": "node", "ts-node": "node", "tsx": "node", "irb": "ruby", "pry": "ruby", "jruby": "ruby",
	"luajit": "lua", "r": "rscript", "iex": "elixir", "powershell": "pwsh", "gawk": "awk", "mawk": "awk", "nawk": "awk", "gsed": "sed", "perl6": "raku",
}

// language is that of an interpreter, by its name without a version: python
// for python3.12 and pypy3.
func language(name string) string {
	name = strings.TrimRight(strings.TrimRight(name, "0123456789."), "-")
	if of, ok := languages[name]; ok {
		return of
	}
	return name
}

// harmless are names that compute and print.
var harmless = map[string][]string{
	"python": strings.Fields(`import from as sys json math re datetime time platform collections itertools functools statistics decimal fractions string textwrap uuid random
		print len str int float bool list dict set tuple sorted sum min max range enumerate zip map filter round abs any all reversed type isinstance repr format join split strip
		lstrip rstrip replace lower upper title startswith endswith items keys values get append count index find loads dumps load dump indent sort_keys ensure_ascii stdin stdout
		version version_info python_version now today utcnow strftime isoformat timedelta pprint Counter defaultdict
		for in if else elif not and or is None True False lambda while return def class pass break continue x y i j k v n s d a b c e f l r w line lines data row rows item obj name text key value end sep file write read readlines readline sqrt pi floor ceil`),
	"node": strings.Fields(`console log JSON stringify parse Math floor round max min random pow sqrt PI process version versions node v8 Date now toISOString Object keys values entries
		Array from map filter reduce forEach join split slice length push sort includes indexOf trim replace toString Number String Boolean parseInt parseFloat const let var return
		function if else for of in true false null undefined new typeof x y i j k v n s d a b c e name text key value`),
}

var (
	codeText  = regexp.MustCompile(`"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'`)
	codeName  = regexp.MustCompile(`[A-Za-z_$][A-Za-z0-9_$]*`)
	sedRuns   = regexp.MustCompile(`(?:^|[;\n{}]|^[0-9$,]+|/)\s*e\s+\S|^[0-9$,]*e$`)
	awkRuns   = regexp.MustCompile(`\bsystem\b|\bgetline\b|\bENVIRON\b|\|\s*"|\|&|"\s*\||@load|@include|/inet`)
	perlEdit  = regexp.MustCompile(`^\s*s/[^/]*/[^/]*/[gimsx]*;?\s*$`)
	perlRuns  = regexp.MustCompile("[@$]\\{|\\$ENV|`|\\(\\?\\??\\{")
	fileReads = regexp.MustCompile(`^:?(?:r|e|read|edit|!|%!|lua|py)`)
)

// foreign tells whether a command runs code of another language that could do
// more than compute and print.
func foreign(name string, c *shellCommand, at shellPlace) bool {
	var codes []shellWord
	name = language(name)
	options, clusters := strings.Fields(codeOptions[name]), codeClusters[name]
	operand := false
	for i, a := range c.args {
		switch low := strings.ToLower(a.text); {
		case slices.Contains(options, low) && i+1 < len(c.args):
			codes = append(codes, c.args[i+1])
		case clusters != nil && clusters.MatchString(a.text):
			if code := clusters.FindStringSubmatch(a.text)[1]; code != "" {
				codes = append(codes, shellWord{text: code, unknown: a.unknown})
			} else if i+1 < len(c.args) {
				codes = append(codes, c.args[i+1])
			}
		case strings.HasPrefix(a.text, "--") && slices.ContainsFunc(options, func(o string) bool { return strings.HasPrefix(low, o+"=") }):
			_, code, _ := strings.Cut(a.text, "=")
			codes = append(codes, shellWord{text: code, unknown: a.unknown})
		case slices.Contains(options, "-c") && len(a.text) > 2 && strings.HasPrefix(a.text, "-c"):
			codes = append(codes, known(a.text[2:]))
		case a.text == "-" || streamed(a):
		case !strings.HasPrefix(a.text, "-"):
			operand = true
		}
	}
	switch name {
	case "sed":
		return slices.ContainsFunc(c.args, func(a shellWord) bool { return a.computed || sedRuns.MatchString(a.text) || substitutes(a.text) })
	case "awk":
		for i, a := range c.args {
			if a.computed || awkRuns.MatchString(a.text) || i > 0 && c.args[i-1].text == "-f" && streamed(a) {
				return true
			}
		}
		return false
	case "vim", "vi", "nvim", "ex", "view", "ed":
		return slices.ContainsFunc(codes, func(a shellWord) bool { return fileReads.MatchString(a.text) }) || name == "ed" && (at.piped || len(at.stdin) > 0)
	}
	if len(codes) == 0 && !operand { // the code comes on standard input
		for _, text := range at.stdin {
			codes = append(codes, known(text))
		}
		if len(codes) == 0 {
			return at.piped
		}
	}
	if name == "perl" {
		return slices.ContainsFunc(codes, func(a shellWord) bool {
			return a.unknown || !perlEdit.MatchString(a.text) || perlRuns.MatchString(a.text)
		})
	}
	allowed := harmless[name]
	for _, code := range codes {
		if code.unknown || allowed == nil || !computes(code.text, allowed) {
			return true
		}
	}
	return false
}

// computes tells whether every name in the code is allowed.
func computes(code string, allowed []string) bool {
	if strings.Contains(code, "\\") || strings.Contains(code, "`") {
		return false
	}
	for _, quoted := range codeText.FindAllString(code, -1) {
		if strings.Contains(quoted, "{") { // f"{…}"
			return false
		}
	}
	for _, name := range codeName.FindAllString(codeText.ReplaceAllString(code, `""`), -1) {
		if !slices.Contains(allowed, name) {
			return false
		}
	}
	return true
}

// substitutes tells whether a sed script runs what it replaces: s/…/…/e.
func substitutes(script string) bool {
	for part := range strings.SplitSeq(script, "\n") {
		if len(part) < 4 || part[0] != 's' || part[1] >= 'a' && part[1] <= 'z' {
			continue
		}
		if flags := part[strings.LastIndexByte(part, part[1])+1:]; strings.Contains(flags, "e") && len(flags) < 8 {
			return true
		}
	}
	return false
}
