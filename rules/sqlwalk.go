package rules

import (
	"slices"
	"strings"
	"unicode"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// gather walks the whole parse tree and sums up what is in it.
func gather(tree *pg.ParseResult) *sqlFacts {
	f := &sqlFacts{parsed: true, multiple: len(tree.GetStmts()) > 1}
	for _, raw := range tree.GetStmts() {
		w := walker{facts: f}
		w.node(raw.GetStmt(), nil)
	}
	for _, s := range f.statements {
		f.reads, f.writes, f.functions = union(f.reads, s.reads), union(f.writes, s.writes), union(f.functions, s.functions)
		if !s.nested { // what is nested counts in what holds it
			f.writing, f.dynamic, f.files = f.writing || s.writing, f.dynamic || s.dynamic, f.files || s.files
		}
	}
	return f
}

// A scope is the list of WITH names that a query can see.
type scope struct {
	name string
	next *scope
}

func (s *scope) has(name string) bool {
	for ; s != nil; s = s.next {
		if s.name == name {
			return true
		}
	}
	return false
}

// A walker visits one top-level statement.
type walker struct {
	facts *sqlFacts
	at    *statement // the statement that is being visited
	ddl   bool       // relations named here, outside any query, are changed
}

// node visits a node: a statement opens an entry of its own, except a SELECT
// within another statement, which is a part of it.
func (w *walker) node(n *pg.Node, in *scope) {
	if n == nil || n.GetNode() == nil {
		return
	}
	m := n.ProtoReflect()
	fd := m.WhichOneof(m.Descriptor().Oneofs().ByName("node"))
	w.message(m.Get(fd).Message(), in)
}

func (w *walker) message(m protoreflect.Message, in *scope) {
	switch n := m.Interface().(type) {
	case *pg.Node:
		w.node(n, in)
		return
	case *pg.RangeVar:
		w.relation(n, in)
		return
	case *pg.FuncCall:
		w.call(n.GetFuncname())
		w.shows(n)
	case *pg.DefElem:
		w.option(n)
	case *pg.SelectStmt:
		w.query(n, in)
		return
	case *pg.VariableSetStmt:
		if w.at != nil { // the SET of an ALTER ROLE … SET
			w.fields(m, in)
			return
		}
	}
	if name := string(m.Descriptor().Name()); strings.HasSuffix(name, "Stmt") && name != "PLAssignStmt" && name != "ReturnStmt" && name != "SetOperationStmt" {
		w.statement(m, in)
		return
	}
	w.fields(m, in)
}

// fields visits everything in a message.
func (w *walker) fields(m protoreflect.Message, in *scope, except ...protoreflect.Name) {
	all := m.Descriptor().Fields() // in the grammar's order, so that lists are the same each time
	for i := range all.Len() {
		fd := all.Get(i)
		if fd.Message() == nil || !m.Has(fd) || slices.Contains(except, fd.Name()) {
			continue
		}
		v := m.Get(fd)
		if !fd.IsList() {
			w.message(v.Message(), in)
			continue
		}
		for j := range v.List().Len() {
			w.message(v.List().Get(j).Message(), in)
		}
	}
}

// enter opens the entry of a statement; the function it returns closes it.
func (w *walker) enter(kind string, node any) (s *statement, leave func()) {
	outer, ddl := w.at, w.ddl
	s = &statement{kind: kind, nested: outer != nil, node: node, holder: outer}
	w.facts.statements = append(w.facts.statements, s)
	w.at, w.ddl = s, false
	return s, func() {
		w.at, w.ddl = outer, ddl
		if outer == nil {
			return
		}
		outer.reads, outer.writes, outer.functions = union(outer.reads, s.reads), union(outer.writes, s.writes), union(outer.functions, s.functions)
		outer.writing, outer.dynamic, outer.files = outer.writing || s.writing, outer.dynamic || s.dynamic, outer.files || s.files
		outer.password, outer.settings, outer.activity = outer.password || s.password, union(outer.settings, s.settings), outer.activity || s.activity
	}
}

// query visits a SELECT, VALUES or TABLE.
func (w *walker) query(n *pg.SelectStmt, in *scope) {
	ddl := w.ddl
	w.ddl = false
	defer func() { w.ddl = ddl }()
	if w.at == nil {
		s, leave := w.enter("SELECT", n)
		defer leave()
		s.where = looks(n.GetWhereClause())
	}
	if into := n.GetIntoClause(); into != nil {
		if w.at.kind == "SELECT" {
			w.at.kind = "SELECT INTO"
		}
		w.at.writing = true
		w.write(into.GetRel())
	}
	w.settings(n)
	w.tells(n.ProtoReflect(), n.GetFromClause())
	in = w.with(n.GetWithClause(), in)
	w.fields(n.ProtoReflect(), in, "with_clause", "into_clause")
}

// with visits the queries of a WITH and returns the scope that they make. A
// name is not seen by its own query, unless the WITH is recursive.
func (w *walker) with(c *pg.WithClause, in *scope) *scope {
	var ctes []*pg.CommonTableExpr
	for _, n := range c.GetCtes() {
		ctes = append(ctes, n.GetCommonTableExpr())
	}
	if c.GetRecursive() {
		for _, cte := range ctes {
			in = &scope{cte.GetCtename(), in}
		}
	}
	for _, cte := range ctes {
		if cte != nil {
			w.fields(cte.ProtoReflect(), in)
		}
		if !c.GetRecursive() {
			in = &scope{cte.GetCtename(), in}
		}
	}
	return in
}

// statement visits anything but a SELECT.
func (w *walker) statement(m protoreflect.Message, in *scope) {
	s, leave := w.enter(statementKind(m), m.Interface())
	defer leave()
	w.connects(m)
	w.told(m)
	switch n := m.Interface().(type) {
	case *pg.InsertStmt:
		s.writing, s.returning = true, len(n.GetReturningList()) > 0
		w.write(n.GetRelation())
		if s.returning || n.GetOnConflictClause() != nil {
			w.read(n.GetRelation())
		}
		w.fields(m, w.with(n.GetWithClause(), in), "with_clause", "relation")
	case *pg.UpdateStmt:
		s.writing, s.returning, s.where = true, len(n.GetReturningList()) > 0, looks(n.GetWhereClause())
		w.change(m, n.GetRelation(), n.GetWithClause(), in)
	case *pg.DeleteStmt:
		s.writing, s.returning, s.where = true, len(n.GetReturningList()) > 0, looks(n.GetWhereClause())
		w.change(m, n.GetRelation(), n.GetWithClause(), in)
	case *pg.MergeStmt:
		s.writing, s.returning, s.where = true, len(n.GetReturningList()) > 0, looks(n.GetJoinCondition())
		w.change(m, n.GetRelation(), n.GetWithClause(), in)
	case *pg.CopyStmt:
		// COPY … TO STDOUT reads; everything else changes a table, or touches
		// the host's files or programs.
		s.files = n.GetIsProgram() || n.GetFilename() != ""
		s.writing = n.GetIsFrom() || s.files
		if n.GetIsFrom() {
			w.write(n.GetRelation())
		} else {
			w.read(n.GetRelation())
		}
		w.fields(m, in, "relation")
	case *pg.ExplainStmt:
		w.fields(m, in)
		s.writing = s.writing && analyzes(n.GetOptions())
	case *pg.VariableShowStmt, *pg.DeclareCursorStmt, *pg.FetchStmt, *pg.ClosePortalStmt, *pg.DeallocateStmt, *pg.PrepareStmt:
		w.fields(m, in)
	case *pg.CallStmt:
		s.writing = true
		w.fields(m, in, "funcexpr", "outargs")
	case *pg.DoStmt, *pg.ExecuteStmt:
		s.writing, s.dynamic = true, true
		w.fields(m, in)
	case *pg.LoadStmt:
		s.writing, s.dynamic, s.files = true, true, true
	case *pg.CreateFunctionStmt:
		s.writing, s.dynamic = true, n.GetSqlBody() == nil
		w.definition(m, in)
	case *pg.CreateTrigStmt:
		w.call(n.GetFuncname())
		s.writing = true
		w.definition(m, in)
	case *pg.DropStmt:
		s.writing = true
		for _, o := range n.GetObjects() {
			w.named(o)
		}
	case *pg.CommentStmt:
		s.writing = true
		w.named(n.GetObject())
	case *pg.SecLabelStmt:
		s.writing = true
		w.named(n.GetObject())
	default:
		s.writing = true
		w.definition(m, in)
	}
}

// change visits a statement that changes rows of a relation, which it reads
// in doing so: its conditions and RETURNING tell what is in them.
func (w *walker) change(m protoreflect.Message, target *pg.RangeVar, with *pg.WithClause, in *scope) {
	w.write(target)
	w.read(target)
	w.fields(m, w.with(with, in), "with_clause", "relation")
}

// definition visits a statement whose relations, outside the queries in it,
// are all taken to be changed.
func (w *walker) definition(m protoreflect.Message, in *scope) {
	w.ddl = true
	w.fields(m, in)
}

func (w *walker) relation(n *pg.RangeVar, in *scope) {
	switch {
	case w.at == nil:
	case w.ddl:
		w.write(n)
	case n.GetSchemaname() == "" && in.has(n.GetRelname()):
		// a name of WITH: its query has been visited
	default:
		w.read(n)
	}
}

func (w *walker) read(n *pg.RangeVar) {
	w.at.sources = union(w.at.sources, nonEmpty(relationName(n)))
	w.at.reads = union(w.at.reads, spellings(n.GetCatalogname(), n.GetSchemaname(), n.GetRelname()))
}

func (w *walker) write(n *pg.RangeVar) {
	w.at.targets = union(w.at.targets, nonEmpty(relationName(n)))
	w.at.writes = union(w.at.writes, spellings(n.GetCatalogname(), n.GetSchemaname(), n.GetRelname()))
}

// named takes an object of DROP or COMMENT, which the grammar gives as a list
// of words. The last may be a column's or a trigger's name: both readings
// count as changed.
func (w *walker) named(n *pg.Node) {
	words := []string{n.GetString_().GetSval()}
	for _, item := range n.GetList().GetItems() {
		words = append(words, item.GetString_().GetSval())
	}
	words = slices.DeleteFunc(words, func(s string) bool { return s == "" })
	w.at.targets = union(w.at.targets, nonEmpty(dotted(words...)))
	w.at.writes = union(w.at.writes, spellings(words...))
	if len(words) > 1 {
		w.at.writes = union(w.at.writes, spellings(words[:len(words)-1]...))
	}
}

func (w *walker) call(name []*pg.Node) {
	var words []string
	for _, n := range name {
		words = append(words, n.GetString_().GetSval())
	}
	if w.at == nil || len(words) == 0 {
		return
	}
	w.at.calls = union(w.at.calls, []string{dotted(words...)})
	w.at.functions = union(w.at.functions, spellings(words...))
	known := powers(strings.ToLower(words[len(words)-1]))
	w.at.files = w.at.files || known.files
	w.at.dynamic = w.at.dynamic || known.dynamic
	w.at.writing = w.at.writing || known.writing
}

// looks tells whether a condition depends on any row: WHERE true, WHERE 1 = 1
// and WHERE (SELECT true) restrict nothing.
func looks(n *pg.Node) bool {
	if n == nil {
		return false
	}
	found := false
	var visit func(protoreflect.Message)
	visit = func(m protoreflect.Message) {
		switch m.Interface().(type) {
		case *pg.ColumnRef, *pg.CurrentOfExpr, *pg.ParamRef:
			found = true
		}
		m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			switch {
			case found || fd.Message() == nil:
			case fd.IsList():
				for i := range v.List().Len() {
					visit(v.List().Get(i).Message())
				}
			default:
				visit(v.Message())
			}
			return !found
		})
	}
	visit(n.ProtoReflect())
	return found
}

// analyzes tells whether an EXPLAIN runs what it explains.
func analyzes(options []*pg.Node) bool {
	for _, o := range options {
		e := o.GetDefElem()
		if !strings.EqualFold(e.GetDefname(), "analyze") {
			continue
		}
		if e.GetArg() == nil {
			return true
		}
		switch strings.ToLower(e.GetArg().GetString_().GetSval()) {
		case "false", "off":
		default:
			if i := e.GetArg().GetInteger(); i == nil || i.GetIval() != 0 {
				return true
			}
		}
	}
	return false
}

// spellings lists the ways in which a rule may name a thing: in full, by each
// tail, and in lower case.
func spellings(words ...string) []string {
	words = slices.DeleteFunc(slices.Clone(words), func(s string) bool { return s == "" })
	var out []string
	for i := range words {
		name := strings.Join(words[i:], ".")
		out = append(out, name)
		if low := strings.ToLower(name); low != name {
			out = append(out, low)
		}
	}
	return out
}

func union(to, from []string) []string {
	for _, s := range from {
		if !slices.Contains(to, s) {
			to = append(to, s)
		}
	}
	return to
}

// spaced turns CreateTableSpace into CREATE TABLE SPACE.
func spaced(camel string) string {
	var b strings.Builder
	for i, r := range camel {
		if i > 0 && unicode.IsUpper(r) {
			b.WriteByte(' ')
		}
		b.WriteRune(unicode.ToUpper(r))
	}
	return b.String()
}
