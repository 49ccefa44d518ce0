package rules

import (
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// kinds spells the statements whose name in the grammar does not spell itself.
// USER and GROUP are roles: a rule on CREATE ROLE hears of all three.
var kinds = map[string]string{
	"CreateStmt": "CREATE TABLE", "IndexStmt": "CREATE INDEX", "ViewStmt": "CREATE VIEW", "RuleStmt": "CREATE RULE",
	"CreateTrigStmt": "CREATE TRIGGER", "CreateEventTrigStmt": "CREATE EVENT TRIGGER", "AlterEventTrigStmt": "ALTER EVENT TRIGGER",
	"CreateSeqStmt": "CREATE SEQUENCE", "AlterSeqStmt": "ALTER SEQUENCE", "CreatedbStmt": "CREATE DATABASE", "DropdbStmt": "DROP DATABASE",
	"AlterDatabaseSetStmt": "ALTER DATABASE", "AlterDatabaseRefreshCollStmt": "ALTER DATABASE", "AlterRoleSetStmt": "ALTER ROLE",
	"CreatePLangStmt": "CREATE LANGUAGE", "CreateFdwStmt": "CREATE FOREIGN DATA WRAPPER", "AlterFdwStmt": "ALTER FOREIGN DATA WRAPPER",
	"CreateForeignServerStmt": "CREATE SERVER", "AlterForeignServerStmt": "ALTER SERVER", "CreateTableSpaceStmt": "CREATE TABLESPACE",
	"DropTableSpaceStmt": "DROP TABLESPACE", "AlterTableSpaceOptionsStmt": "ALTER TABLESPACE", "AlterTableMoveAllStmt": "ALTER TABLE",
	"AlterExtensionContentsStmt": "ALTER EXTENSION", "CreateAmStmt": "CREATE ACCESS METHOD", "CreateOpClassStmt": "CREATE OPERATOR CLASS",
	"CreateOpFamilyStmt": "CREATE OPERATOR FAMILY", "AlterOpFamilyStmt": "ALTER OPERATOR FAMILY", "CreateStatsStmt": "CREATE STATISTICS",
	"AlterStatsStmt": "ALTER STATISTICS", "CompositeTypeStmt": "CREATE TYPE", "CreateEnumStmt": "CREATE TYPE", "CreateRangeStmt": "CREATE TYPE",
	"AlterEnumStmt": "ALTER TYPE", "RefreshMatViewStmt": "REFRESH MATERIALIZED VIEW", "CheckPointStmt": "CHECKPOINT",
	"ConstraintsSetStmt": "SET CONSTRAINTS", "SecLabelStmt": "SECURITY LABEL", "ClosePortalStmt": "CLOSE", "DeclareCursorStmt": "DECLARE",
	"VariableShowStmt": "SHOW", "AlterTSDictionaryStmt": "ALTER TEXT SEARCH DICTIONARY", "AlterTSConfigurationStmt": "ALTER TEXT SEARCH CONFIGURATION",
	"AlterObjectDependsStmt": "ALTER", "ReplicaIdentityStmt": "ALTER TABLE",
}

// objects spells the object types whose name does not spell itself.
var objects = map[pg.ObjectType]string{
	pg.ObjectType_OBJECT_MATVIEW: "MATERIALIZED VIEW", pg.ObjectType_OBJECT_COLUMN: "TABLE", pg.ObjectType_OBJECT_TABCONSTRAINT: "TABLE",
	pg.ObjectType_OBJECT_DOMCONSTRAINT: "DOMAIN", pg.ObjectType_OBJECT_ATTRIBUTE: "TYPE", pg.ObjectType_OBJECT_FDW: "FOREIGN DATA WRAPPER",
	pg.ObjectType_OBJECT_FOREIGN_SERVER: "SERVER", pg.ObjectType_OBJECT_LARGEOBJECT: "LARGE OBJECT", pg.ObjectType_OBJECT_OPCLASS: "OPERATOR CLASS",
	pg.ObjectType_OBJECT_OPFAMILY: "OPERATOR FAMILY", pg.ObjectType_OBJECT_STATISTIC_EXT: "STATISTICS",
	pg.ObjectType_OBJECT_TSCONFIGURATION: "TEXT SEARCH CONFIGURATION", pg.ObjectType_OBJECT_TSDICTIONARY: "TEXT SEARCH DICTIONARY",
	pg.ObjectType_OBJECT_TSPARSER: "TEXT SEARCH PARSER", pg.ObjectType_OBJECT_TSTEMPLATE: "TEXT SEARCH TEMPLATE",
}

func object(t pg.ObjectType) string {
	if s, ok := objects[t]; ok {
		return s
	}
	return strings.ReplaceAll(strings.TrimPrefix(t.String(), "OBJECT_"), "_", " ")
}

// statementKind spells what a statement is, as it begins in SQL.
func statementKind(m protoreflect.Message) string {
	switch n := m.Interface().(type) {
	case *pg.DropStmt:
		return "DROP " + object(n.GetRemoveType())
	case *pg.RenameStmt:
		if n.GetRelationType() != pg.ObjectType_OBJECT_TYPE_UNDEFINED && (n.GetRenameType() == pg.ObjectType_OBJECT_COLUMN || n.GetRenameType() == pg.ObjectType_OBJECT_ATTRIBUTE) {
			return "ALTER " + object(n.GetRelationType())
		}
		return "ALTER " + object(n.GetRenameType())
	case *pg.AlterOwnerStmt:
		return "ALTER " + object(n.GetObjectType())
	case *pg.AlterObjectSchemaStmt:
		return "ALTER " + object(n.GetObjectType())
	case *pg.AlterObjectDependsStmt:
		return "ALTER " + object(n.GetObjectType())
	case *pg.AlterTableStmt:
		return "ALTER " + object(n.GetObjtype())
	case *pg.AlterFunctionStmt:
		return "ALTER " + object(n.GetObjtype())
	case *pg.DefineStmt:
		return "CREATE " + object(n.GetKind())
	case *pg.CreateTableAsStmt:
		return "CREATE " + object(n.GetObjtype())
	case *pg.CreateFunctionStmt:
		return either(n.GetIsProcedure(), "CREATE PROCEDURE", "CREATE FUNCTION")
	case *pg.GrantStmt:
		return either(n.GetIsGrant(), "GRANT", "REVOKE")
	case *pg.GrantRoleStmt:
		return either(n.GetIsGrant(), "GRANT", "REVOKE")
	case *pg.VacuumStmt:
		return either(n.GetIsVacuumcmd(), "VACUUM", "ANALYZE")
	case *pg.FetchStmt:
		return either(n.GetIsmove(), "MOVE", "FETCH")
	case *pg.VariableSetStmt:
		return either(n.GetKind() == pg.VariableSetKind_VAR_RESET || n.GetKind() == pg.VariableSetKind_VAR_RESET_ALL, "RESET", "SET")
	}
	name := string(m.Descriptor().Name())
	if kind, ok := kinds[name]; ok {
		return kind
	}
	return spaced(strings.TrimSuffix(name, "Stmt"))
}

// A power is what a function of PostgreSQL, or of an extension that ships with
// it, can do beyond computing. Functions of a user's own are unknown here:
// they are listed among the functions, and rules may say what is allowed.
type power struct {
	prefix                  string
	files, dynamic, writing bool
}

var functionPowers = []power{
	{prefix: "pg_read_", files: true}, {prefix: "pg_ls_", files: true}, {prefix: "pg_stat_file", files: true},
	{prefix: "pg_current_logfile", files: true}, {prefix: "pg_file_", files: true, writing: true},
	{prefix: "pg_logdir_ls", files: true}, {prefix: "lo_import", files: true, writing: true}, {prefix: "lo_export", files: true, writing: true},
	{prefix: "file_fdw_", files: true}, {prefix: "pg_hba_file_rules", files: true}, {prefix: "pg_show_all_file_settings", files: true},
	{prefix: "dblink", dynamic: true, writing: true}, {prefix: "query_to_xml", dynamic: true, writing: true},
	{prefix: "cursor_to_xml", dynamic: true}, {prefix: "table_to_xml", dynamic: true}, {prefix: "schema_to_xml", dynamic: true},
	{prefix: "database_to_xml", dynamic: true}, {prefix: "crosstab", dynamic: true, writing: true}, {prefix: "connectby", dynamic: true, writing: true},
	{prefix: "xpath_table", dynamic: true, writing: true}, {prefix: "ts_stat", dynamic: true, writing: true}, {prefix: "ts_rewrite", dynamic: true, writing: true},
	{prefix: "lo_", writing: true}, {prefix: "lowrite", writing: true}, {prefix: "loread"}, {prefix: "nextval", writing: true}, {prefix: "setval", writing: true},
	{prefix: "set_config", writing: true}, {prefix: "pg_notify", writing: true}, {prefix: "pg_terminate_backend", writing: true},
	{prefix: "pg_cancel_backend", writing: true}, {prefix: "pg_reload_conf", writing: true}, {prefix: "pg_rotate_logfile", writing: true},
	{prefix: "pg_promote", writing: true}, {prefix: "pg_switch_wal", writing: true}, {prefix: "pg_create_", writing: true},
	{prefix: "pg_drop_", writing: true}, {prefix: "pg_copy_", writing: true}, {prefix: "pg_replication_", writing: true},
	{prefix: "pg_logical_", writing: true}, {prefix: "pg_wal_replay_", writing: true}, {prefix: "pg_backup_", writing: true},
	{prefix: "pg_start_backup", writing: true}, {prefix: "pg_stop_backup", writing: true}, {prefix: "pg_advisory_", writing: true},
	{prefix: "pg_try_advisory_", writing: true}, {prefix: "pg_stat_reset", writing: true}, {prefix: "pg_import_system_collations", writing: true},
	{prefix: "pg_log_", writing: true}, {prefix: "brin_", writing: true}, {prefix: "gin_clean_pending_list", writing: true},
}

// powers sums up what is known of a function by its bare name.
func powers(name string) power {
	var sum power
	for _, p := range functionPowers {
		if strings.HasPrefix(name, p.prefix) {
			sum.files, sum.dynamic, sum.writing = sum.files || p.files, sum.dynamic || p.dynamic, sum.writing || p.writing
		}
	}
	return sum
}
