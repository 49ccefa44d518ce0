package rules

import (
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
)

// defines says what a statement does to schema, roles and rights.
func (s *statement) defines(d *doing) {
	switch n := s.node.(type) {
	case *pg.CreateRoleStmt:
		d.say("creates role %s", sqlName(n.GetRole()))
		attributes := roleAttributes(n.GetOptions())
		if n.GetStmtType() == pg.RoleStmtType_ROLESTMT_USER {
			attributes = append([]string{"LOGIN"}, attributes...)
		}
		d.sayAll("with ", attributes)
	case *pg.AlterRoleStmt:
		d.say("changes role %s", roleName(n.GetRole()))
		members := roleMembers(n.GetOptions())
		switch {
		case len(members) > 0 && n.GetAction() < 0:
			d.thenAll("· members no more: ", members)
		case len(members) > 0:
			d.thenAll("· new members: ", members)
		default:
			d.thenAll("· now ", roleAttributes(n.GetOptions()))
		}
	case *pg.AlterRoleSetStmt:
		of := "every role"
		if n.GetRole() != nil {
			of = "role " + roleName(n.GetRole())
		}
		d.say("changes %s from its next session on: %s", of, setting(n.GetSetstmt()))
	case *pg.DropRoleStmt:
		d.sayAll("drops "+either(len(n.GetRoles()) == 1, "role ", "roles "), roles(n.GetRoles()))
	case *pg.GrantStmt:
		grants(d, n, "")
	case *pg.AlterDefaultPrivilegesStmt:
		grants(d, n.GetAction(), " created from now on")
	case *pg.GrantRoleStmt:
		var of []string
		for _, r := range n.GetGrantedRoles() {
			of = append(of, sqlName(r.GetAccessPriv().GetPrivName()))
		}
		if n.GetIsGrant() {
			d.sayAll("makes ", roles(n.GetGranteeRoles()))
			d.sayAll("a member of ", of)
		} else {
			d.sayAll("ends membership of ", roles(n.GetGranteeRoles()))
			d.sayAll("in ", of)
		}
		for _, o := range n.GetOpt() {
			if o.GetDefElem().GetDefname() == "admin" {
				d.then("· ADMIN OPTION")
			}
		}
	case *pg.DropStmt:
		var names []string
		for _, o := range n.GetObjects() {
			names = append(names, objectName(o, n.GetRemoveType()))
		}
		d.sayAll("drops "+strings.ToLower(object(n.GetRemoveType()))+" ", names)
		if n.GetBehavior() == pg.DropBehavior_DROP_CASCADE {
			d.then("· CASCADE: and everything that depends on it")
		}
	case *pg.DropdbStmt:
		d.say("drops database %s", sqlName(n.GetDbname()))
	case *pg.CreatedbStmt:
		d.say("creates database %s", sqlName(n.GetDbname()))
	case *pg.DropOwnedStmt:
		d.sayAll("drops everything that these roles own: ", roles(n.GetRoles()))
	case *pg.ReassignOwnedStmt:
		d.sayAll("gives away everything that these roles own: ", roles(n.GetRoles()))
		d.then("· to %s", roleName(n.GetNewrole()))
	case *pg.CreateStmt:
		d.say("creates table %s", relationName(n.GetRelation()))
	case *pg.CreateTableAsStmt:
		d.say("creates %s %s from a query", strings.ToLower(object(n.GetObjtype())), relationName(n.GetInto().GetRel()))
	case *pg.ViewStmt:
		d.say("%s view %s", either(n.GetReplace(), "creates or replaces", "creates"), relationName(n.GetView()))
	case *pg.IndexStmt:
		d.say("creates index %s on table %s", orNoName(n.GetIdxname()), relationName(n.GetRelation()))
	case *pg.CreateSchemaStmt:
		d.say("creates schema %s", sqlName(n.GetSchemaname()))
	case *pg.CreateExtensionStmt:
		d.say("installs extension %s: code that runs in the database", sqlName(n.GetExtname()))
	case *pg.CreateFunctionStmt:
		creates(d, n)
	case *pg.CreateTrigStmt:
		d.say("creates trigger %s on table %s, which from now on runs function %s", sqlName(n.GetTrigname()), relationName(n.GetRelation()), dotted(strs(n.GetFuncname())...))
	case *pg.RuleStmt:
		d.say("creates rule %s on %s, which rewrites statements from now on", sqlName(n.GetRulename()), relationName(n.GetRelation()))
	case *pg.AlterTableStmt:
		alters(d, n)
	case *pg.RenameStmt:
		of := objectName(n.GetObject(), n.GetRenameType())
		if n.GetRelation() != nil {
			of = relationName(n.GetRelation())
		}
		if n.GetSubname() != "" {
			of = sqlName(n.GetSubname()) + " of " + of
		}
		d.say("renames %s %s to %s", strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(n.GetRenameType().String(), "OBJECT_"), "_", " ")), of, sqlName(n.GetNewname()))
	case *pg.AlterOwnerStmt:
		d.say("gives %s %s to role %s", strings.ToLower(object(n.GetObjectType())), objectName(n.GetObject(), n.GetObjectType()), roleName(n.GetNewowner()))
	}
}

func grants(d *doing, n *pg.GrantStmt, created string) {
	var rights, on []string
	for _, p := range n.GetPrivileges() {
		right := strings.ToUpper(p.GetAccessPriv().GetPrivName())
		if cols := strs(p.GetAccessPriv().GetCols()); len(cols) > 0 {
			right += "(" + dottedList(cols) + ")"
		}
		rights = append(rights, right)
	}
	if len(rights) == 0 {
		rights = []string{"every right"}
	}
	for _, o := range n.GetObjects() {
		on = append(on, objectName(o, n.GetObjtype()))
	}
	kind := strings.ToLower(object(n.GetObjtype()))
	switch {
	case created != "":
		on = []string{"each " + kind + created}
	case n.GetTargtype() == pg.GrantTargetType_ACL_TARGET_ALL_IN_SCHEMA:
		kind = "every " + kind + " in schema"
		fallthrough
	case len(on) > 0:
		on[0] = kind + " " + on[0]
	}
	verb, to := "grants ", "to "
	if !n.GetIsGrant() {
		verb, to = "revokes ", "from "
	}
	d.sayAll(verb, rights)
	d.sayAll("on ", on)
	d.thenAll(to, roles(n.GetGrantees()))
	if n.GetGrantOption() {
		d.then("· GRANT OPTION: who may pass it on")
	}
}

func creates(d *doing, n *pg.CreateFunctionStmt) {
	language, definer := "sql", ""
	for _, o := range n.GetOptions() {
		switch e := o.GetDefElem(); e.GetDefname() {
		case "language":
			language = e.GetArg().GetString_().GetSval()
		case "security":
			if e.GetArg().GetBoolean().GetBoolval() {
				definer = ", which runs with the rights of its owner"
			}
		}
	}
	d.say("%s %s %s in %s%s", either(n.GetReplace(), "creates or replaces", "creates"), either(n.GetIsProcedure(), "procedure", "function"),
		dotted(strs(n.GetFuncname())...), sqlName(language), definer)
}

// alterings are the ways to alter a table that have words of their own.
var alterings = map[pg.AlterTableType]string{
	pg.AlterTableType_AT_AddColumn: "adds column", pg.AlterTableType_AT_DropColumn: "drops column", pg.AlterTableType_AT_AlterColumnType: "changes the type of column",
	pg.AlterTableType_AT_AddConstraint: "adds constraint", pg.AlterTableType_AT_DropConstraint: "drops constraint", pg.AlterTableType_AT_ChangeOwner: "gives it to role",
	pg.AlterTableType_AT_SetNotNull: "forbids NULL in column", pg.AlterTableType_AT_DropNotNull: "lets NULL into column", pg.AlterTableType_AT_ColumnDefault: "changes the default of column",
	pg.AlterTableType_AT_EnableRowSecurity: "switches row security on", pg.AlterTableType_AT_DisableRowSecurity: "switches row security off",
	pg.AlterTableType_AT_NoForceRowSecurity: "lets its owner pass row security", pg.AlterTableType_AT_DisableTrig: "switches off trigger",
	pg.AlterTableType_AT_DisableTrigAll: "switches off every trigger", pg.AlterTableType_AT_DisableTrigUser: "switches off every trigger of users",
	pg.AlterTableType_AT_EnableTrig: "switches on trigger", pg.AlterTableType_AT_DisableRule: "switches off rule", pg.AlterTableType_AT_EnableRule: "switches on rule",
	pg.AlterTableType_AT_DetachPartition: "detaches partition", pg.AlterTableType_AT_AttachPartition: "attaches partition",
}

func alters(d *doing, n *pg.AlterTableStmt) {
	d.say("alters %s %s:", strings.ToLower(object(n.GetObjtype())), relationName(n.GetRelation()))
	var acts []string
	for _, c := range n.GetCmds() {
		cmd := c.GetAlterTableCmd()
		act, ok := alterings[cmd.GetSubtype()]
		if !ok {
			act = strings.ToLower(spaced(strings.TrimPrefix(cmd.GetSubtype().String(), "AT_")))
		}
		name := cmd.GetName()
		if col := cmd.GetDef().GetColumnDef().GetColname(); name == "" {
			name = col
		}
		if con := cmd.GetDef().GetConstraint().GetConname(); name == "" {
			name = con
		}
		if part := cmd.GetDef().GetPartitionCmd().GetName(); part != nil {
			act += " " + relationName(part)
		}
		if name != "" {
			act += " " + sqlName(name)
		}
		if cmd.GetNewowner() != nil {
			act += " " + roleName(cmd.GetNewowner())
		}
		acts = append(acts, act+cascades(cmd.GetBehavior(), " and everything that depends on it"))
	}
	d.sayAll("", acts)
}

// roleAttributes spells the options of CREATE ROLE and ALTER ROLE.
func roleAttributes(options []*pg.Node) []string {
	var out []string
	for _, o := range options {
		e := o.GetDefElem()
		name, known := map[string]string{"superuser": "SUPERUSER", "inherit": "INHERIT", "createrole": "CREATEROLE", "createdb": "CREATEDB",
			"canlogin": "LOGIN", "isreplication": "REPLICATION", "bypassrls": "BYPASSRLS"}[e.GetDefname()]
		switch {
		case known && !e.GetArg().GetBoolean().GetBoolval():
			out = append(out, "NO"+name)
		case known:
			out = append(out, name)
		case e.GetDefname() == "password" && e.GetArg() == nil:
			out = append(out, "no password")
		case e.GetDefname() == "password":
			out = append(out, "a password")
		case e.GetDefname() == "addroleto":
			out = append(out, "membership of "+strings.Join(roles(e.GetArg().GetList().GetItems()), ", "))
		case e.GetDefname() == "rolemembers", e.GetDefname() == "adminmembers":
			out = append(out, "members "+strings.Join(roles(e.GetArg().GetList().GetItems()), ", "))
		default:
			out = append(out, strings.ToUpper(spaced(e.GetDefname())))
		}
	}
	return out
}

func roleMembers(options []*pg.Node) []string {
	var out []string
	for _, o := range options {
		if o.GetDefElem().GetDefname() == "rolemembers" {
			out = append(out, roles(o.GetDefElem().GetArg().GetList().GetItems())...)
		}
	}
	return out
}

func roles(nodes []*pg.Node) []string {
	var out []string
	for _, n := range nodes {
		out = append(out, roleName(n.GetRoleSpec()))
	}
	return out
}

func roleName(r *pg.RoleSpec) string {
	switch r.GetRoletype() {
	case pg.RoleSpecType_ROLESPEC_PUBLIC:
		return "PUBLIC (everybody)"
	case pg.RoleSpecType_ROLESPEC_CURRENT_USER, pg.RoleSpecType_ROLESPEC_CURRENT_ROLE, pg.RoleSpecType_ROLESPEC_SESSION_USER:
		return "the role that runs it"
	}
	return sqlName(r.GetRolename())
}

// objectName spells an object of DROP, GRANT and the like, which the grammar
// gives in as many forms as there are kinds.
func objectName(n *pg.Node, kind pg.ObjectType) string {
	words := strs(n.GetList().GetItems())
	switch {
	case n.GetRangeVar() != nil:
		return relationName(n.GetRangeVar())
	case n.GetString_() != nil:
		return sqlName(n.GetString_().GetSval())
	case n.GetTypeName() != nil:
		return dotted(strs(n.GetTypeName().GetNames())...)
	case n.GetObjectWithArgs() != nil:
		return dotted(strs(n.GetObjectWithArgs().GetObjname())...)
	case len(words) > 1 && (kind == pg.ObjectType_OBJECT_TRIGGER || kind == pg.ObjectType_OBJECT_RULE || kind == pg.ObjectType_OBJECT_POLICY):
		last := len(words) - 1
		return sqlName(words[last]) + " on " + dotted(words[:last]...)
	case len(words) > 0:
		return dotted(words...)
	}
	return "(something)"
}

func strs(nodes []*pg.Node) []string {
	var out []string
	for _, n := range nodes {
		if s := n.GetString_(); s != nil {
			out = append(out, s.GetSval())
		}
	}
	return out
}

func dottedList(names []string) string {
	var out []string
	for _, n := range names {
		out = append(out, sqlName(n))
	}
	return strings.Join(out, ", ")
}

func nonEmpty(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

func orNoName(s string) string {
	if s == "" {
		return "(unnamed)"
	}
	return sqlName(s)
}
