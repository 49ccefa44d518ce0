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
	"python": "-c", "python2": "-c", "python3": "-c", "perl": "-e -E -ne -pe -i -n -p -lne -lpe -lane -ane", "ruby": "-e -ne -pe", "node": "-e -p --eval --print -pe",
	"nodejs": "-e -p --eval --print -pe", "php": "-r", "lua": "-e", "deno": "eval", "bun": "-e --eval", "pwsh": "-c -command -encodedcommand -enc -ec",
	"powershell": "-c -command -encodedcommand -enc -ec", "osascript": "-e", "tclsh": "-c", "expect": "-c", "guile": "-c", "rscript": "-e", "julia": "-e -E",
	"vim": "-c +", "vi": "-c +", "nvim": "-c +", "ex": "-c +", "view": "-c +", "emacs": "--eval -e", "cmd": "/c /k",
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
	options := strings.Fields(codeOptions[strings.ToLower(name)])
	operand := false
	for i, a := range c.args {
		switch low := strings.ToLower(a.text); {
		case slices.Contains(options, low) && i+1 < len(c.args):
			codes = append(codes, c.args[i+1])
		case slices.Contains(options, "-c") && len(a.text) > 2 && strings.HasPrefix(a.text, "-c"):
			codes = append(codes, known(a.text[2:]))
		case a.text == "-" || streamed(a):
		case !strings.HasPrefix(a.text, "-"):
			operand = true
		}
	}
	switch name {
	case "sed", "gsed":
		return slices.ContainsFunc(c.args, func(a shellWord) bool { return a.computed || sedRuns.MatchString(a.text) || substitutes(a.text) })
	case "awk", "gawk", "mawk", "nawk":
		return slices.ContainsFunc(c.args, func(a shellWord) bool { return a.computed || awkRuns.MatchString(a.text) })
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
	allowed := harmless[strings.TrimRight(strings.TrimSuffix(name, "js"), "23")]
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
