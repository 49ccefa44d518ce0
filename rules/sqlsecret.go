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
	if !slices.ContainsFunc(n.GetFromClause(), func(f *pg.Node) bool {
		return strings.EqualFold(f.GetRangeVar().GetRelname(), "pg_settings")
	}) {
		// Anywhere else, behind a join say, its names are not followed.
		return
	}
	names, ok := settingNames(n.GetWhereClause())
	if !ok {
		names = []string{"*"}
	}
	w.at.settings = union(w.at.settings, names)
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
