package rules

import (
	"fmt"
	"slices"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
)

// sqlDoes tells what a text of SQL does.
func sqlDoes(f *sqlFacts) []string {
	if !f.parsed {
		return []string{"cannot be parsed as SQL, so what it does cannot be told: read it yourself (" + f.err + ")"}
	}
	var all []doing
	for _, s := range f.statements {
		if s.holder != nil && s.holder.kind == "ALTER DEFAULT PRIVILEGES" {
			continue // told with what holds it
		}
		all = append(all, s.does())
	}
	out := doings(all, either(len(all) == 1, "statement", "statements"))
	if !f.portable {
		out = append(out, "read as PostgreSQL: another database may read this text differently")
	}
	return out
}

// does tells what one statement does: first what it is, then what else is in
// it.
func (s *statement) does() doing {
	d := doing{kind: s.kind, grave: s.writing || s.dynamic || s.files || s.password}
	if where := s.standing(); where != "" {
		d.parts = append(d.parts, where)
	}
	s.first(&d)
	if len(d.parts) == 0 || s.standing() != "" && len(d.parts) == 1 {
		s.other(&d)
	}
	s.calling(&d)
	if s.password && !strings.Contains(strings.Join(slices.Concat(d.parts, d.tail), " "), "password") {
		d.then("· sets a password or says how to connect")
	}
	if s.files && !d.files {
		d.then("· reaches files or programs of the database's host")
	}
	if s.dynamic {
		d.then("· dynamic SQL: what it does cannot be told")
	}
	from := slices.DeleteFunc(slices.Clone(s.sources), func(t string) bool { return slices.Contains(s.targets, t) })
	if copied, ok := s.node.(*pg.CopyStmt); s.kind != "SELECT" && !(ok && copied.GetRelation() != nil) {
		d.thenAll("· reads ", from)
	}
	return d
}

// standing says in what another statement holds this one.
func (s *statement) standing() string {
	if s.holder == nil {
		return ""
	}
	for h := s.holder; h != nil; h = h.holder {
		switch n := h.node.(type) {
		case *pg.ExplainStmt:
			if !analyzes(n.GetOptions()) {
				return "explained, not run:"
			}
		case *pg.PrepareStmt:
			return "prepared, not run yet:"
		case *pg.RuleStmt:
			return "from now on, by that rule:"
		case *pg.CreateFunctionStmt:
			return "whenever that is called:"
		}
	}
	return "within it:"
}

// other is what is said of a kind of statement that first does not know.
func (s *statement) other(d *doing) {
	d.say("%s", s.kind)
	d.sayAll("on ", s.targets)
}

// calling says what the functions that it calls may do.
func (s *statement) calling(d *doing) {
	var changing, files, texts, unknown []string
	for _, name := range s.calls {
		bare := strings.ToLower(name[strings.LastIndexByte(name, '.')+1:])
		p := powers(bare)
		switch {
		case p.files:
			files = append(files, name+"()")
		case p.dynamic:
			texts = append(texts, name+"()")
		case p.writing:
			changing = append(changing, name+"()")
		case !computing[bare] || strings.Contains(name, ".") && !strings.HasPrefix(name, "pg_catalog."):
			unknown = append(unknown, name+"()")
		}
	}
	if len(files) > 0 {
		d.files = true
		d.thenAll("· reaches files of the database's host by ", files)
	}
	d.thenAll("· has texts run as SQL by ", texts)
	d.thenAll("· changes something by ", changing)
	if len(unknown) > 0 {
		d.grave = true
		d.thenAll("· calls ", unknown)
		d.then("· what these functions do cannot be told")
	}
}

// first says what the statement is and what it changes.
func (s *statement) first(d *doing) {
	switch n := s.node.(type) {
	case *pg.SelectStmt:
		s.selects(d, n)
	case *pg.InsertStmt:
		d.say("inserts %s into table %s", rowsOf(n.GetSelectStmt().GetSelectStmt()), relationName(n.GetRelation()))
		switch c := n.GetOnConflictClause(); c.GetAction() {
		case pg.OnConflictAction_ONCONFLICT_UPDATE:
			d.thenAll("· updates rows that are there already: ", columns(c.GetTargetList()))
		case pg.OnConflictAction_ONCONFLICT_NOTHING:
			d.then("· leaves rows that are there already")
		}
	case *pg.UpdateStmt:
		d.say("writes table %s: UPDATE, %s", relationName(n.GetRelation()), s.which(n.GetWhereClause()))
		d.thenAll("· sets ", columns(n.GetTargetList()))
	case *pg.DeleteStmt:
		d.say("deletes from table %s: DELETE, %s", relationName(n.GetRelation()), s.which(n.GetWhereClause()))
	case *pg.MergeStmt:
		s.merges(d, n)
	case *pg.TruncateStmt:
		d.sayAll("empties "+either(len(n.GetRelations()) == 1, "table ", "tables "), relations(n.GetRelations()))
		d.then("· TRUNCATE: every row%s", cascades(n.GetBehavior(), ", and of every table that refers to it"))
	case *pg.CopyStmt:
		s.copies(d, n)
	case *pg.ExplainStmt:
		if analyzes(n.GetOptions()) {
			d.say("runs a statement and explains it: EXPLAIN ANALYZE")
		} else {
			d.say("explains a statement without running it")
		}
	case *pg.DoStmt:
		d.say("runs a block of code: DO")
	case *pg.ExecuteStmt:
		d.say("runs the prepared statement %s", sqlName(n.GetName()))
	case *pg.PrepareStmt:
		d.say("prepares statement %s", sqlName(n.GetName()))
	case *pg.CallStmt:
		d.say("calls a procedure")
	case *pg.TransactionStmt:
		d.say("%s", strings.ReplaceAll(strings.TrimPrefix(n.GetKind().String(), "TRANS_STMT_"), "_", " "))
	case *pg.VariableSetStmt:
		d.say("%s", setting(n))
	case *pg.VariableShowStmt:
		d.say("shows setting %s", sqlName(n.GetName()))
	case *pg.LockStmt:
		d.sayAll("locks "+either(len(n.GetRelations()) == 1, "table ", "tables "), relations(n.GetRelations()))
	case *pg.LoadStmt:
		d.say("loads the library %s into the database's process", word(n.GetFilename(), '\''))
		d.files = true
	case *pg.AlterSystemStmt:
		d.say("changes the configuration of the whole database server: %s", sqlName(n.GetSetstmt().GetName()))
	default:
		s.defines(d)
	}
}

func (s *statement) selects(d *doing, n *pg.SelectStmt) {
	if len(n.GetLockingClause()) > 0 {
		d.grave = true
	}
	switch {
	case n.GetIntoClause() != nil:
		d.say("creates table %s from a query: SELECT INTO", relationName(n.GetIntoClause().GetRel()))
	case len(s.sources) > 0:
		d.sayAll("reads ", s.sources)
	default:
		d.say("reads no table: SELECT")
	}
	if len(n.GetLockingClause()) > 0 {
		d.then("· locks the rows")
	}
}

// which says what rows a condition leaves.
func (s *statement) which(where *pg.Node) string {
	switch {
	case where == nil:
		return "no WHERE clause: every row"
	case !s.where:
		return "its WHERE clause looks at no row: every row or none"
	}
	return "the rows that its WHERE clause picks"
}

func (s *statement) merges(d *doing, n *pg.MergeStmt) {
	d.say("writes table %s: MERGE", relationName(n.GetRelation()))
	var acts []string
	for _, w := range n.GetMergeWhenClauses() {
		c := w.GetMergeWhenClause()
		act := map[pg.CmdType]string{pg.CmdType_CMD_UPDATE: "updates", pg.CmdType_CMD_DELETE: "deletes", pg.CmdType_CMD_INSERT: "inserts", pg.CmdType_CMD_NOTHING: "leaves"}[c.GetCommandType()]
		switch c.GetMatchKind() {
		case pg.MergeMatchKind_MERGE_WHEN_MATCHED:
			act += " rows that match"
		case pg.MergeMatchKind_MERGE_WHEN_NOT_MATCHED_BY_SOURCE:
			act += " rows that nothing matches"
		default:
			act += " rows that are not there"
		}
		if c.GetCondition() != nil {
			act += " (some of them)"
		}
		acts = append(acts, act)
	}
	d.thenAll("· ", acts)
	if !s.where {
		d.then("· its ON condition looks at no row: every row or none matches")
	}
}

func (s *statement) copies(d *doing, n *pg.CopyStmt) {
	table := "a query"
	if n.GetRelation() != nil {
		table = "table " + relationName(n.GetRelation())
	}
	direction := "TO"
	if n.GetIsFrom() {
		direction = "FROM"
	}
	d.files = true
	switch {
	case n.GetIsProgram():
		d.say("runs a program on the database's host: COPY … %s PROGRAM %s ·", direction, word(n.GetFilename(), '\''))
	case n.GetFilename() != "" && n.GetIsFrom():
		d.say("reads file %s of the database's host ·", word(n.GetFilename(), '\''))
	case n.GetFilename() != "":
		d.say("writes file %s of the database's host ·", word(n.GetFilename(), '\''))
	}
	if n.GetIsFrom() {
		d.say("loads rows into %s: COPY", table)
	} else {
		d.say("reads %s in full: COPY", table)
	}
}

func rowsOf(n *pg.SelectStmt) string {
	switch rows := len(n.GetValuesLists()); {
	case n == nil, rows == 1:
		return "1 row"
	case rows > 1:
		return fmt.Sprintf("%d rows", rows)
	}
	return "the rows of a query"
}

func setting(n *pg.VariableSetStmt) string {
	name := sqlName(n.GetName())
	local := either(n.GetIsLocal(), " for this transaction", " for the session")
	switch n.GetKind() {
	case pg.VariableSetKind_VAR_RESET:
		return "resets setting " + name
	case pg.VariableSetKind_VAR_RESET_ALL:
		return "resets every setting"
	case pg.VariableSetKind_VAR_SET_MULTI:
		return "sets " + strings.ToLower(n.GetName()) + local
	}
	switch {
	case len(n.GetArgs()) == 0:
	case n.GetName() == "role", n.GetName() == "session_authorization":
		return "acts as role " + sqlName(n.GetArgs()[0].GetAConst().GetSval().GetSval()) + local + ": SET " + strings.ToUpper(strings.ReplaceAll(n.GetName(), "_", " "))
	}
	return "sets " + name + local
}

func cascades(b pg.DropBehavior, what string) string {
	if b == pg.DropBehavior_DROP_CASCADE {
		return what
	}
	return ""
}

func columns(targets []*pg.Node) []string {
	var out []string
	for _, t := range targets {
		if c := sqlName(t.GetResTarget().GetName()); !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	return out
}

func relations(nodes []*pg.Node) []string {
	var out []string
	for _, n := range nodes {
		out = append(out, relationName(n.GetRangeVar()))
	}
	return out
}

func relationName(n *pg.RangeVar) string {
	return dotted(n.GetCatalogname(), n.GetSchemaname(), n.GetRelname())
}

// dotted spells a qualified name; empty words do not count.
func dotted(words ...string) string {
	var out []string
	for _, w := range words {
		if w != "" {
			out = append(out, sqlName(w))
		}
	}
	return strings.Join(out, ".")
}

// sqlName spells a name as SQL has to: quoted where it is not all small letters.
func sqlName(name string) string {
	plain := name != ""
	for i, r := range name {
		plain = plain && (r >= 'a' && r <= 'z' || r == '_' || i > 0 && (r >= '0' && r <= '9' || r == '$'))
	}
	if plain && len(name) <= maxDoesWord {
		return name
	}
	if quoted := word(name, '"'); strings.HasPrefix(quoted, `"`) || strings.HasPrefix(quoted, "(") {
		return quoted
	}
	return `"` + name + `"`
}

// computing are functions of PostgreSQL that only compute.
var computing = setOf(`count sum min max avg array_agg string_agg json_agg jsonb_agg json_object_agg jsonb_object_agg bool_and bool_or every
	stddev variance corr percentile_cont percentile_disc mode row_number rank dense_rank percent_rank cume_dist ntile lag lead first_value last_value nth_value
	abs ceil ceiling floor round trunc mod power sqrt cbrt exp ln log sign random greatest least width_bucket div gcd
	lower upper initcap length char_length character_length octet_length bit_length trim ltrim rtrim btrim substring substr left right lpad rpad replace
	repeat reverse split_part strpos position overlay translate concat concat_ws format regexp_replace regexp_match regexp_matches regexp_split_to_table
	regexp_split_to_array regexp_count regexp_substr starts_with ascii chr md5 sha256 encode decode to_hex quote_ident quote_literal quote_nullable
	now clock_timestamp statement_timestamp transaction_timestamp timeofday age date_trunc date_part date_bin extract to_char to_date to_timestamp to_number
	make_date make_time make_timestamp make_interval justify_days justify_hours timezone isfinite
	coalesce nullif num_nulls num_nonnulls pg_typeof unnest array_length array_append array_cat array_position array_remove array_to_string string_to_array
	cardinality generate_series generate_subscripts json_build_object jsonb_build_object json_build_array jsonb_build_array to_json to_jsonb row_to_json
	json_array_length jsonb_array_length json_array_elements jsonb_array_elements json_array_elements_text jsonb_array_elements_text json_each jsonb_each
	json_each_text jsonb_each_text json_object_keys jsonb_object_keys jsonb_set jsonb_insert jsonb_pretty jsonb_strip_nulls json_extract_path jsonb_path_query
	jsonb_typeof json_typeof gen_random_uuid uuid_generate_v4 version current_database current_schema current_schemas pg_backend_pid
	to_tsvector to_tsquery plainto_tsquery websearch_to_tsquery ts_rank ts_headline similarity
	pg_size_pretty pg_relation_size pg_total_relation_size pg_table_size pg_indexes_size pg_database_size obj_description col_description format_type
	like_escape normalize is_normalized`)
