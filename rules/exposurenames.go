package rules

import (
	"slices"
	"strings"
	"unicode"
)

// A meaning is what the names around a text say that it is.
type meaning int

const (
	asAny meaning = iota
	asShell
	asSQL
	asQuery // SQL, or words of a search
	asCode
)

var (
	shellWords   = setOf("command commands cmd cmds cmdline script scripts shell bash sh zsh exec argv entrypoint keystrokes terminal")
	shellTools   = setOf("shell bash sh zsh terminal command commands cmd ssh console cli subprocess")
	sqlWords     = setOf("sql ddl dml")
	sqlTools     = setOf("sql postgres postgresql pg mysql mariadb sqlite mssql oracle snowflake bigquery clickhouse redshift duckdb database db cockroachdb")
	queryWords   = setOf("query queries statement statements stmt q")
	codeWords    = setOf("code python javascript js program source snippet")
	codeTools    = setOf("python python3 javascript js node nodejs ruby perl php code jupyter notebook repl ipython")
	programWords = setOf("args argv arguments subcommand input")
	// proseWords name arguments that are for people, or say where and how.
	proseWords = setOf("description reason explanation title comment message summary note notes body purpose justification name id label labels timeout cwd workdir dir directory path file filename user username host hostname region namespace cluster env environment background")
)

func hasAny(words []string, in map[string]bool) bool {
	return slices.ContainsFunc(words, func(w string) bool { return in[w] })
}

// meant tells what the argument's name, and else the tool's, says of a text.
func (x *exposer) meant(key string) meaning {
	words := nameWords(key)
	switch {
	case hasAny(words, sqlWords):
		return asSQL
	case hasAny(words, shellWords):
		return asShell
	case hasAny(words, queryWords):
		if hasAny(x.tool, sqlTools) {
			return asSQL
		}
		return asQuery
	case hasAny(words, codeWords) && hasAny(x.tool, codeTools) && !hasAny(x.tool, sqlTools):
		return asCode
	case x.program() != "" && hasAny(words, programWords):
		return asShell
	case key == "" || hasAny(words, proseWords):
		return asAny
	case hasAny(x.tool, sqlTools):
		return asQuery
	case hasAny(x.tool, shellTools):
		return asShell
	}
	return asAny
}

// nameWords takes a name apart: getSecretValue, kubectl-get, run_command.
func nameWords(name string) []string {
	if len(name) > 256 {
		name = name[:256]
	}
	var words []string
	start := 0
	runes := []rune(name)
	cut := func(end int) {
		if end > start {
			words = append(words, strings.ToLower(string(runes[start:end])))
		}
	}
	for i, r := range runes {
		switch {
		case !unicode.IsLetter(r) && !unicode.IsDigit(r):
			cut(i)
			start = i + 1
		case i > start && unicode.IsUpper(r) && !unicode.IsUpper(runes[i-1]):
			cut(i)
			start = i
		}
	}
	cut(len(runes))
	return words
}
