package rules

// An exposure is one way in which a request would show a credential: an entry
// of the catalogue behind exposes_credentials(). Entries are data. Each names
// where what it says is documented; docs/exposures.md lists them, and a test
// keeps the two together.
type exposure struct {
	id     string // stable: policies name it
	kind   string // sql, shell, file, address, kubernetes, vault, git or cloud
	words  string // for a person: "it " + words
	source string // URL

	relations []string // of SQL: names, bare or qualified
	functions []string // of SQL: names; * at the end
	phrases   []string // of SQL that PostgreSQL does not know: words in a row
	commands  []string // of shell: see commandPattern
	files     []string // paths: see filePattern
	hosts     []string // names, or addresses in any spelling
	urls      []string // host and path: see urlPattern
	calls     []string // operations of an API by name, letters only
}

const (
	postgres  = "https://www.postgresql.org/docs/current/"
	mysql     = "https://dev.mysql.com/doc/refman/8.4/en/"
	mssql     = "https://learn.microsoft.com/en-us/sql/"
	oracle    = "https://docs.oracle.com/en/database/oracle/oracle-database/23/refrn/"
	kubeDocs  = "https://kubernetes.io/docs/"
	awsDocs   = "https://docs.aws.amazon.com/"
	vaultDocs = "https://developer.hashicorp.com/vault/"
	bashDocs  = "https://www.gnu.org/software/bash/manual/bash.html"
)

// Entries that are not recognised by names alone: code finds them.
const (
	idSQLDynamic      = "sql-dynamic"
	idSQLUnreadable   = "sql-unreadable"
	idSQLPassword     = "sql-password"
	idSQLFile         = "pg-copy-file"
	idSQLSettings     = "pg-settings"
	idSQLActivity     = "pg-activity"
	idShellDynamic    = "shell-dynamic"
	idShellUnreadable = "shell-unreadable"
	idSecretVariable  = "secret-variable"
	idKubeSecret      = "kubernetes-secret"
	idVaultTool       = "secret-tool"
	idTooMuch         = "too-much"
	idHomeFolder      = "home-folder"
)

var sqlCatalogue = []exposure{
	{id: idSQLDynamic, kind: "sql", words: "runs SQL that is put together when it runs", source: postgres + "sql-do.html"},
	{id: idSQLUnreadable, kind: "sql", words: "is SQL that cannot be read", source: postgres + "sql-syntax.html"},
	{id: idSQLPassword, kind: "sql", words: "sets a password, which stands in its text", source: postgres + "sql-alterrole.html",
		phrases: []string{
			"identified by", "identified with", "set password", "create login", "alter login", "sp_addlogin", "sp_password",
			"sp_addlinkedsrvlogin", "create credential", "create secret", "create persistent secret", "pragma key", "pragma rekey",
		}},
	{id: idSQLFile, kind: "sql", words: "reads or writes files, or runs programs, on the database's host", source: postgres + "sql-copy.html"},
	{id: idSQLSettings, kind: "sql", words: "shows settings of the server that hold passwords", source: postgres + "runtime-config-replication.html",
		relations: []string{"pg_db_role_setting"},
		functions: []string{"pg_show_all_settings"}},
	{id: idSQLActivity, kind: "sql", words: "shows statements that others ran, passwords set in them included", source: postgres + "monitoring-stats.html#MONITORING-PG-STAT-ACTIVITY-VIEW",
		functions: []string{"pg_stat_get_activity", "pg_stat_get_backend_activity"}},
	{id: "pg-shadow", kind: "sql", words: "reads the password hashes of PostgreSQL's roles", source: postgres + "catalog-pg-authid.html",
		relations: []string{"pg_shadow", "pg_authid"},
		commands:  []string{"pg_dump -t|--table *pg_authid*|*pg_shadow*", "pg_dumpall !--no-role-passwords|--tablespaces-only|-t"}},
	{id: "pg-user-mapping", kind: "sql", words: "reads passwords for foreign servers", source: postgres + "catalog-pg-user-mapping.html",
		relations: []string{
			"pg_user_mapping", "pg_user_mappings", "information_schema.user_mapping_options", "user_mapping_options", "_pg_user_mappings",
		}},
	{id: "pg-subscription", kind: "sql", words: "reads the connection strings of subscriptions, passwords included", source: postgres + "catalog-pg-subscription.html",
		relations: []string{"pg_subscription", "pg_stat_wal_receiver"},
		functions: []string{"pg_stat_get_wal_receiver"}},
	{id: "pg-hba", kind: "sql", words: "reads the server's authentication rules and configuration files", source: postgres + "view-pg-hba-file-rules.html",
		relations: []string{"pg_hba_file_rules", "pg_ident_file_mappings", "pg_file_settings"},
		functions: []string{"pg_hba_file_rules", "pg_ident_file_mappings", "pg_show_all_file_settings"}},
	{id: "pg-file-function", kind: "sql", words: "reads files of the database's host", source: postgres + "functions-admin.html",
		functions: []string{
			"pg_read_*", "pg_ls_*", "pg_stat_file", "pg_file_*", "pg_logdir_ls", "pg_current_logfile", "lo_import", "lo_export",
			"get_raw_page", "pg_get_wal_*",
		}},
	{id: "pg-dblink", kind: "sql", words: "runs SQL through a connection that its text describes", source: postgres + "dblink.html",
		functions: []string{"dblink*"}},
	{id: "pg-vault-extension", kind: "sql", words: "reads secrets that are kept in the database", source: "https://supabase.com/docs/guides/database/vault",
		relations: []string{
			"vault.secrets", "vault.decrypted_secrets", "decrypted_secrets", "pgsodium.key", "pgsodium.decrypted_key", "auth.users",
			"auth.refresh_tokens", "auth.one_time_tokens",
		}},
	{id: "pg-citus", kind: "sql", words: "reads the passwords of a cluster's nodes", source: "https://docs.citusdata.com/en/stable/develop/api_metadata.html",
		relations: []string{"pg_dist_authinfo", "pg_dist_poolinfo"}},
	{id: "mysql-user", kind: "sql", words: "reads the password hashes of MySQL's accounts", source: mysql + "grant-tables.html",
		relations: []string{"mysql.user", "mysql.global_priv", "mysql.password_history"},
		phrases:   []string{"show create user"},
		commands:  []string{"mysqldump|mariadb-dump|mysqlpump mysql", "mysqldump|mariadb-dump|mysqlpump -a|--all-databases|--system"}},
	{id: "mysql-replication", kind: "sql", words: "reads the passwords of replication and of remote servers", source: mysql + "replica-logs-status.html",
		relations: []string{"mysql.slave_master_info", "mysql.servers", "slave_master_info"}},
	{id: "mysql-file", kind: "sql", words: "reads or writes files of the database's host", source: mysql + "select-into.html",
		functions: []string{"load_file", "sys_exec", "sys_eval", "sys_get", "do_system"},
		phrases:   []string{"into outfile", "into dumpfile", "load data", "load xml"}},
	{id: "mssql-logins", kind: "sql", words: "reads the password hashes of SQL Server's logins", source: mssql + "relational-databases/system-catalog-views/sys-sql-logins-transact-sql",
		relations: []string{"sql_logins", "syslogins", "sysxlogins", "linked_logins", "syslnklgns", "sysusers"},
		functions: []string{"loginproperty"},
		phrases:   []string{"loginproperty"}},
	{id: "mssql-shell", kind: "sql", words: "runs programs or reads files and the registry through SQL Server", source: mssql + "relational-databases/system-stored-procedures/xp-cmdshell-transact-sql",
		relations: []string{"xp_cmdshell"},
		functions: []string{"xp_*", "sp_oacreate", "sp_oamethod"},
		phrases: []string{
			"xp_cmdshell", "xp_regread", "xp_dirtree", "xp_fileexist", "xp_servicecontrol", "sp_oacreate", "sp_oamethod",
			"sp_execute_external_script", "bulk insert",
		}},
	{id: "mssql-remote", kind: "sql", words: "reads files, or other servers with a login of its own", source: mssql + "t-sql/functions/openrowset-transact-sql",
		functions: []string{"openrowset", "opendatasource", "openquery"},
		phrases:   []string{"openrowset", "opendatasource", "openquery"}},
	{id: "mssql-keys", kind: "sql", words: "reads or opens keys that SQL Server keeps", source: mssql + "relational-databases/security/encryption/encryption-hierarchy",
		functions: []string{"decryptbykey*", "decryptbypassphrase", "decryptbycert", "decryptbyasymkey"},
		phrases:   []string{"open symmetric key", "open master key", "backup master key", "backup service master key"}},
	{id: "oracle-users", kind: "sql", words: "reads the password hashes of Oracle's users and links", source: oracle + "DBA_USERS.html",
		relations: []string{
			"user$", "sys.user$", "dba_users", "user_history$", "link$", "dba_users_with_defpwd", "dba_credentials", "scheduler$_credential",
			"default_pwd$",
		}},
	{id: "oracle-host", kind: "sql", words: "reaches files, programs or the network through Oracle's packages", source: "https://docs.oracle.com/en/database/oracle/oracle-database/23/arpls/",
		functions: []string{
			"utl_file.*", "dbms_java.*", "dbms_scheduler.*", "dbms_backup_restore.*", "utl_http.*", "dbms_lob.loadfromfile", "bfilename",
			"dbms_xslprocessor.*", "dbms_advisor.*",
		},
		phrases: []string{"organization external", "utl_file", "utl_http", "dbms_java", "dbms_scheduler", "bfilename"}},
	{id: "sqlite-file", kind: "sql", words: "reads files or loads code through SQLite", source: "https://www.sqlite.org/cli.html",
		functions: []string{"readfile", "writefile", "load_extension", "fts3_tokenizer"},
		phrases:   []string{"attach database", "^attach"},
		commands:  []string{"sqlite3 *.shell*|*.system*|*.load*|*.import*|*.read*"}},
	{id: "clickhouse-users", kind: "sql", words: "reads users, named collections or files of ClickHouse", source: "https://clickhouse.com/docs/operations/system-tables/users",
		relations: []string{"system.users", "system.named_collections"},
		phrases:   []string{"show create named collection", "show named collections"}},
	{id: "duckdb-files", kind: "sql", words: "reads files, variables or secrets through DuckDB", source: "https://duckdb.org/docs/stable/configuration/secrets_manager",
		functions: []string{"read_text", "read_blob", "getenv", "duckdb_secrets"},
		phrases:   []string{"duckdb_secrets"}},
	{id: "snowflake-secret", kind: "sql", words: "reads secrets that Snowflake keeps", source: "https://docs.snowflake.com/en/sql-reference/sql/create-secret",
		functions: []string{"get_generic_secret_string", "get_username_password", "get_oauth_access_token", "system$get_secret*"},
		phrases:   []string{"get_generic_secret_string", "get_username_password"}},
}
