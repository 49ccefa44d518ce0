package rules

import (
	"regexp"
	"slices"
	"strings"
)

// What SQL exposes. PostgreSQL's parser says what a text reads, writes and
// calls. For what only another dialect understands there is a scan of words,
// which errs towards exposing: names stand in a text in any dialect, except
// where it is put together when it runs, and that has words of its own.

// exposuresOf lists what an SQL text meets in the catalogue.
func (f *sqlFacts) exposuresOf() []*exposure {
	var found []*exposure
	add := func(id string) { found = append(found, byID[id]) }
	if !f.parsed {
		return scanSQL(f.text, true)
	}
	if f.dynamic {
		add(idSQLDynamic)
	}
	for _, s := range f.statements {
		if s.password {
			add(idSQLPassword)
		}
		if s.files && (s.kind == "COPY" || s.kind == "LOAD" || strings.HasSuffix(s.kind, "FOREIGN TABLE")) {
			add(idSQLFile)
		}
		if slices.ContainsFunc(s.settings, secretSetting) {
			add(idSQLSettings)
		}
		if s.activity {
			add(idSQLActivity)
		}
	}
	for i := range sqlCatalogue {
		e := &sqlCatalogue[i]
		if named(e.relations, f.reads) || named(e.relations, f.writes) || named(e.functions, f.functions) || named(e.functions, f.reads) {
			found = append(found, e)
		}
	}
	found = append(found, literals(f.text)...)
	if !f.portable { // another dialect may see text where PostgreSQL sees a comment or a string
		found = append(found, scanSQL(f.text, false)...)
	}
	return distinctExposures(found)
}

var sqlLiteral = regexp.MustCompile(`'((?:[a-z][a-z0-9+.-]*://|/|~/)[^'\s]{1,1000})'`)

// maxLiterals bounds the literals of one text that are looked at.
const maxLiterals = 2000

// literals lists what the addresses and paths among the literals name: SQL
// fetches URLs in ClickHouse, in DuckDB and with extensions.
func literals(text string) []*exposure {
	var found []*exposure
	for _, m := range sqlLiteral.FindAllStringSubmatch(text, maxLiterals) {
		if strings.Contains(m[1], "://") {
			found = append(found, address(m[1])...)
		} else {
			found = append(found, file(m[1])...)
		}
	}
	return distinctExposures(found)
}

func distinctExposures(list []*exposure) []*exposure {
	var out []*exposure
	for _, e := range list {
		if !slices.Contains(out, e) {
			out = append(out, e)
		}
	}
	return out
}

func named(patterns, names []string) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		return slices.ContainsFunc(patterns, func(p string) bool { return globMatch(p, name) })
	})
}

// openSettings sound like secrets and are none.
var openSettings = []string{"password_encryption", "scram_iterations", "authentication_timeout", "ssl_min_protocol_version", "max_authentication_token_length"}

func secretSetting(name string) bool {
	if slices.Contains(openSettings, name) {
		return false
	}
	for _, part := range []string{"conninfo", "passphrase", "password", "passwd", "secret", "token", "api_key", "apikey", "jwt", "private_key", "credential"} {
		if strings.Contains(name, part) {
			return true
		}
	}
	return name == "*"
}

var (
	sqlComment  = regexp.MustCompile(`(?s)/\*.*?\*/`)
	sqlMarks    = strings.NewReplacer("/*", " ", "*/", " ", "--", " ", "#", " ")
	sqlQuotes   = strings.NewReplacer("`", "", `"`, "", "[", "", "]", "")
	sqlSpace    = regexp.MustCompile(`[\s\x{a0}]+`)
	sqlDots     = regexp.MustCompile(`\s*\.[\s.]*`)
	sqlBang     = regexp.MustCompile(`!\d*`)
	sqlDynamic  = regexp.MustCompile(`\b(exec|execute|immediate|prepare|sp_executesql|sp_prepare|dbms_sql|eval|do|handler|call)\b`)
	sqlEscaped  = regexp.MustCompile(`(?i)\bu&["']|\\`)
	sqlStart    = regexp.MustCompile(`^[\s(;]*(select|with|insert|update|delete|replace|merge|create|alter|drop|show|describe|desc|explain|use|begin|start|commit|rollback|set|values|truncate|analyze|optimize|pragma|vacuum|declare|if|lock|unlock|savepoint|release|grant|revoke|rename|comment|call|exec|execute)\b`)
	sqlVerbs    = regexp.MustCompile(`(?is)^(?:\s|\(|;|/\*.*?\*/|--[^\n]*\n)*(select|with|insert|update|delete|merge|create|alter|drop|truncate|grant|revoke|copy|do|execute|exec|explain|analyze|call|values|table|show|set|reset|begin|commit|start|rollback|declare|fetch|prepare|deallocate|vacuum|lock|load|import|reindex|refresh|comment|security|use|describe|desc|pragma|attach|handler|bulk|backup|restore|replace|merge|open|abort|end)\b`)
	sqlStraight = regexp.MustCompile(`(?is)^(?:\s|\(|;)*(?:select\b.*\b(?:from|into)\b|with\b.*\bselect\b|exec(?:ute)?\s|bulk\s+insert\b|load\s+data\b|(?:create|alter)\s+(?:user|login|role)\b|show\s+create\s+user\b|insert\s+into\b)`)
)

// scanSQL looks for names and phrases in a text by its words, with its
// comments left out and with them left in. With whole, the text is one that
// PostgreSQL cannot read, and it is exposing unless it is plain.
func scanSQL(text string, whole bool) []*exposure {
	if len(text) > maxSQLBytes {
		return []*exposure{byID[idSQLUnreadable]}
	}
	low := strings.ToLower(text)
	found := literals(low)
	readings := []string{plainWords(sqlComment.ReplaceAllString(low, " ")), plainWords(sqlBang.ReplaceAllString(sqlMarks.Replace(low), " "))}
	for i := range sqlCatalogue {
		e := &sqlCatalogue[i]
		for _, reading := range readings {
			if said(reading, e) {
				found = append(found, e)
				break
			}
		}
	}
	for _, reading := range readings {
		if strings.HasPrefix(reading, "use mysql") && strings.Contains(reading, " user") {
			found = append(found, byID["mysql-user"])
		}
	}
	if !whole || len(found) > 0 {
		return distinctExposures(found)
	}
	if sqlDynamic.MatchString(readings[1]) {
		return []*exposure{byID[idSQLDynamic]}
	}
	if sqlEscaped.MatchString(low) || strings.ContainsRune(low, 0) || !sqlStart.MatchString(readings[0]) {
		return []*exposure{byID[idSQLUnreadable]}
	}
	return nil
}

// plainWords is a text with its quotes off and one blank wherever it has some, none
// around dots.
func plainWords(text string) string {
	return strings.TrimSpace(sqlDots.ReplaceAllString(sqlSpace.ReplaceAllString(sqlQuotes.Replace(text), " "), "."))
}

// said tells whether a reading holds a name or a phrase of the entry.
func said(reading string, e *exposure) bool {
	for _, name := range e.relations {
		if holds(reading, name, false) {
			return true
		}
	}
	for _, name := range e.functions {
		prefix, glob := strings.CutSuffix(name, "*")
		if holds(reading, prefix, glob) {
			return true
		}
	}
	for _, phrase := range e.phrases {
		if start, at := strings.CutPrefix(phrase, "^"); at {
			if strings.HasPrefix(reading, start+" ") || strings.Contains(reading, "; "+start+" ") || strings.Contains(reading, ";"+start+" ") {
				return true
			}
		} else if holds(reading, phrase, false) {
			return true
		}
	}
	return false
}

// holds finds a name in a reading, as a whole word.
func holds(reading, name string, prefix bool) bool {
	for at := 0; ; {
		i := strings.Index(reading[at:], name)
		if i < 0 {
			return false
		}
		i += at
		end := i + len(name)
		before := i == 0 || !wordByte(reading[i-1])
		after := prefix || end == len(reading) || !wordByte(reading[end])
		if before && after {
			return true
		}
		at = i + 1
	}
}

func wordByte(b byte) bool {
	return b == '_' || b == '$' || b >= 0x80 || '0' <= b && b <= '9' || 'a' <= b && b <= 'z'
}
