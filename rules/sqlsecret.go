package rules

import (
	"slices"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// What of a statement has to do with credentials and is no name of a relation
// or a function.

// option looks at an element of an option list: the PASSWORD of a role, those
// of OPTIONS (…) of a foreign server.
func (w *walker) option(n *pg.DefElem) {
	if w.at == nil {
		return
	}
	switch strings.ToLower(n.GetDefname()) {
	case "filename", "program": // of file_fdw
		w.at.files = true
	case "password", "encryptedpassword", "unencryptedpassword", "passwd", "sslpassword", "passfile", "conninfo", "connection":
		w.at.password = w.at.password || n.GetArg() != nil // PASSWORD NULL has none
	}
}

// connects looks for the connection string of a subscription, and at what
// SHOW shows.
func (w *walker) connects(m protoreflect.Message) {
	switch n := m.Interface().(type) {
	case *pg.CreateSubscriptionStmt:
		w.at.password = n.GetConninfo() != ""
	case *pg.AlterSubscriptionStmt:
		w.at.password = n.GetConninfo() != ""
	case *pg.VariableShowStmt:
		name := strings.ToLower(n.GetName())
		if name == "all" {
			name = "*"
		}
		w.at.settings = union(w.at.settings, []string{name})
	}
}

// shows looks at a call of current_setting.
func (w *walker) shows(n *pg.FuncCall) {
	name := n.GetFuncname()
	if w.at == nil || len(name) == 0 || !strings.EqualFold(name[len(name)-1].GetString_().GetSval(), "current_setting") {
		return
	}
	setting := "*"
	if args := n.GetArgs(); len(args) > 0 && args[0].GetAConst().GetSval() != nil {
		setting = strings.ToLower(args[0].GetAConst().GetSval().GetSval())
	}
	w.at.settings = union(w.at.settings, []string{setting})
}

// settings looks at a query of pg_settings: which names its WHERE lets
// through.
func (w *walker) settings(n *pg.SelectStmt) {
	for _, f := range n.GetFromClause() {
		for _, r := range tablesOf(f) {
			if !strings.EqualFold(r.GetRelname(), "pg_settings") {
				continue
			}
			names, ok := settingNames(n.GetWhereClause())
			if !ok || f.GetRangeVar() == nil { // behind a join, a name may be another's
				names = []string{"*"}
			}
			w.at.settings = union(w.at.settings, names)
		}
	}
}

// tablesOf are the relations that an element of FROM joins, itself if it is one.
func tablesOf(n *pg.Node) []*pg.RangeVar {
	if r := n.GetRangeVar(); r != nil {
		return []*pg.RangeVar{r}
	}
	if j := n.GetJoinExpr(); j != nil {
		return append(tablesOf(j.GetLarg()), tablesOf(j.GetRarg())...)
	}
	return nil
}

// telling are views of which one column holds what others wrote: the statements
// that they ran, or the settings of their roles, which may be any text.
var telling = map[string]string{
	"pg_stat_activity": "query", "pg_stat_statements": "query", "pg_prepared_statements": "statement",
	"pg_roles": "rolconfig", "pg_user": "useconfig",
}

// tells looks for such a column in a statement that reads such a view: by its
// name, or with all others of the row.
func (w *walker) tells(m protoreflect.Message, from []*pg.Node) {
	for _, f := range from {
		for _, r := range tablesOf(f) {
			column, ok := telling[strings.ToLower(r.GetRelname())]
			if !ok {
				continue
			}
			names := []string{column, r.GetRelname(), r.GetAlias().GetAliasname()}
			if len(r.GetAlias().GetColnames()) > 0 || namesColumn(m, names) {
				w.tell(r)
			}
		}
	}
}

func (w *walker) tell(r *pg.RangeVar) {
	switch telling[strings.ToLower(r.GetRelname())] {
	case "":
	case "rolconfig", "useconfig":
		w.at.settings = union(w.at.settings, []string{"*"})
	default:
		w.at.activity = true
	}
}

// told does the same for what is no SELECT: COPY takes the whole row.
func (w *walker) told(m protoreflect.Message) {
	switch n := m.Interface().(type) {
	case *pg.CopyStmt:
		if r := n.GetRelation(); r != nil && !n.GetIsFrom() {
			w.tell(r)
			if strings.EqualFold(r.GetRelname(), "pg_settings") {
				w.at.settings = union(w.at.settings, []string{"*"})
			}
		}
	case *pg.UpdateStmt:
		w.tells(m, n.GetFromClause())
	case *pg.DeleteStmt:
		w.tells(m, n.GetUsingClause())
	case *pg.MergeStmt:
		w.tells(m, []*pg.Node{n.GetSourceRelation()})
	}
}

// namesColumn finds a column of one of these names, or a star, anywhere below m.
func namesColumn(m protoreflect.Message, names []string) (found bool) {
	if c, ok := m.Interface().(*pg.ColumnRef); ok {
		fields := c.GetFields()
		last := fields[len(fields)-1]
		return last.GetAStar() != nil || slices.Contains(names, last.GetString_().GetSval())
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Message() == nil || f.IsMap():
		case f.IsList():
			for i := range v.List().Len() {
				found = found || namesColumn(v.List().Get(i).Message(), names)
			}
		default:
			found = found || namesColumn(v.Message(), names)
		}
		return !found
	})
	return found
}

// settingNames lists the names to which a condition restricts a column name.
func settingNames(n *pg.Node) (names []string, ok bool) {
	if and := n.GetBoolExpr(); and != nil && and.GetBoolop() == pg.BoolExprType_AND_EXPR {
		for _, arg := range and.GetArgs() {
			if names, ok = settingNames(arg); ok {
				return names, true
			}
		}
		return nil, false
	}
	e := n.GetAExpr()
	if e == nil || len(e.GetName()) != 1 || e.GetName()[0].GetString_().GetSval() != "=" {
		return nil, false
	}
	fields := e.GetLexpr().GetColumnRef().GetFields()
	if len(fields) == 0 || !strings.EqualFold(fields[len(fields)-1].GetString_().GetSval(), "name") {
		return nil, false
	}
	values := []*pg.Node{e.GetRexpr()}
	switch e.GetKind() {
	case pg.A_Expr_Kind_AEXPR_OP:
	case pg.A_Expr_Kind_AEXPR_IN:
		values = e.GetRexpr().GetList().GetItems()
	default:
		return nil, false
	}
	for _, v := range values {
		s := v.GetAConst().GetSval()
		if s == nil {
			return nil, false
		}
		names = append(names, strings.ToLower(s.GetSval()))
	}
	return names, len(names) > 0
}
