package rules

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// One line of facts, for tables: kinds, then what is true, then the lists.
func line(f *sqlFacts) string {
	var b strings.Builder
	if !f.parsed {
		b.WriteString("unreadable ")
	}
	for _, s := range f.statements {
		b.WriteString(strings.ReplaceAll(s.kind, " ", "_") + " ")
	}
	for _, t := range []struct {
		name string
		is   bool
	}{{"multiple", f.multiple}, {"writing", f.writing}, {"dynamic", f.dynamic}, {"files", f.files}} {
		if t.is {
			b.WriteString("+" + t.name + " ")
		}
	}
	for _, l := range []struct {
		name string
		list []string
	}{{"r", f.reads}, {"w", f.writes}, {"f", f.functions}} {
		if len(l.list) > 0 {
			b.WriteString(l.name + ":" + strings.Join(l.list, ",") + " ")
		}
	}
	return strings.TrimSpace(b.String())
}

func TestSQLFacts(t *testing.T) {
	for _, c := range []struct{ sql, want string }{
		{`SELECT 1`, `SELECT`},
		{`select name from customers where id = 1`, `SELECT r:customers`},
		{`TABLE customers`, `SELECT r:customers`},
		{`VALUES (1)`, `SELECT`},
		{`select * from public.customers c join orders using (id)`, `SELECT r:public.customers,customers,orders`},

		// Hidden names.
		{`SELECT * FROM pg_catalog.pg_shadow`, `SELECT r:pg_catalog.pg_shadow,pg_shadow`},
		{`SELECT * FROM "pg_shadow"`, `SELECT r:pg_shadow`},
		{`SELECT * FROM PG_SHADOW`, `SELECT r:pg_shadow`},
		{`SELECT * FROM "Staff"`, `SELECT r:Staff,staff`},
		{`SELECT * FROM U&"pg\005fshadow"`, `SELECT r:pg_shadow`},
		{`SELECT * FROM U&"pg!005fshadow" UESCAPE '!'`, `SELECT r:pg_shadow`},
		{`SELECT/**/*/**/FROM/**/pg_shadow`, `SELECT r:pg_shadow`},
		{"SELECT * FROM -- comment\n pg_shadow", `SELECT r:pg_shadow`},
		{`SELECT (SELECT max(passwd) FROM pg_shadow)`, `SELECT r:pg_shadow f:max`},
		{`SELECT 1 WHERE EXISTS (TABLE pg_shadow)`, `SELECT r:pg_shadow`},
		{`SELECT 1 FROM t ORDER BY (SELECT 1 FROM pg_shadow LIMIT 1)`, `SELECT r:t,pg_shadow`},
		{`SELECT 1 UNION ALL SELECT 2 FROM pg_shadow`, `SELECT r:pg_shadow`},
		{`SELECT * FROM (VALUES ((SELECT 1 FROM pg_shadow))) v`, `SELECT r:pg_shadow`},
		{`SELECT * FROM t, LATERAL (SELECT * FROM pg_shadow) s`, `SELECT r:t,pg_shadow`},
		{`SELECT count(*) FILTER (WHERE EXISTS (SELECT 1 FROM pg_shadow)) OVER (PARTITION BY (SELECT 1 FROM pg_authid)) FROM t`, `SELECT r:pg_shadow,pg_authid,t f:count`},

		// WITH: a name hides a relation where it is seen, and only there.
		{`WITH d AS (SELECT * FROM t) SELECT * FROM d`, `SELECT r:t`},
		{`WITH pg_shadow AS (SELECT * FROM pg_shadow) SELECT * FROM pg_shadow`, `SELECT r:pg_shadow`},
		{`WITH RECURSIVE r AS (SELECT 1 UNION ALL SELECT * FROM r) SELECT * FROM r`, `SELECT`},
		{`SELECT * FROM (WITH t AS (SELECT 1) SELECT * FROM t) x, t`, `SELECT r:t`},
		{`WITH t AS (SELECT 1) SELECT * FROM public.t`, `SELECT r:public.t,t`},
		{`WITH x AS (SELECT 1) INSERT INTO x SELECT * FROM x`, `INSERT +writing w:x`},

		// Writes in disguise.
		{`WITH d AS (DELETE FROM t RETURNING *) SELECT * FROM d`, `SELECT DELETE +writing r:t w:t`},
		{`SELECT * INTO evil FROM t`, `SELECT_INTO +writing r:t w:evil`},
		{`CREATE TABLE evil AS SELECT * FROM pg_shadow`, `CREATE_TABLE +writing r:pg_shadow w:evil`},
		{`EXPLAIN DELETE FROM t`, `EXPLAIN DELETE r:t w:t`},
		{`EXPLAIN ANALYZE DELETE FROM t`, `EXPLAIN DELETE +writing r:t w:t`},
		{`EXPLAIN (VERBOSE, ANALYZE) DELETE FROM t`, `EXPLAIN DELETE +writing r:t w:t`},
		{`EXPLAIN (ANALYZE off) DELETE FROM t`, `EXPLAIN DELETE r:t w:t`},
		{`EXPLAIN (ANALYZE 1) DELETE FROM t`, `EXPLAIN DELETE +writing r:t w:t`},
		{`EXPLAIN (ANALYZE off, ANALYZE on) DELETE FROM t`, `EXPLAIN DELETE +writing r:t w:t`},
		{`EXPLAIN ANALYZE SELECT 1`, `EXPLAIN`},
		{`PREPARE p AS DELETE FROM t`, `PREPARE DELETE +writing r:t w:t`},
		{`DECLARE c CURSOR FOR SELECT * FROM pg_shadow`, `DECLARE r:pg_shadow`},
		{`UPDATE t SET a = (SELECT passwd FROM pg_shadow)`, `UPDATE +writing r:t,pg_shadow w:t`},
		{`INSERT INTO t SELECT * FROM u`, `INSERT +writing r:u w:t`},
		{`INSERT INTO t VALUES (1) RETURNING *`, `INSERT +writing r:t w:t`},
		{`DELETE FROM t USING pg_shadow WHERE true`, `DELETE +writing r:t,pg_shadow w:t`},
		{`MERGE INTO t USING s ON t.a = s.a WHEN MATCHED THEN DELETE`, `MERGE +writing r:t,s w:t`},
		{`SELECT nextval('s')`, `SELECT +writing f:nextval`},
		{`SELECT pg_catalog.set_config('a', 'b', false)`, `SELECT +writing f:pg_catalog.set_config,set_config`},

		// Several statements; the escape from a read-only transaction.
		{`COMMIT; create table evil(a int)`, `TRANSACTION CREATE_TABLE +multiple +writing w:evil`},
		{`SELECT 1; DROP TABLE t`, `SELECT DROP_TABLE +multiple +writing w:t`},
		{`SELECT 1;;;`, `SELECT`},
		{`SELECT ';' -- ; DROP TABLE t`, `SELECT`},
		{`SELECT $$; DROP TABLE t$$`, `SELECT`},
		{`SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE`, `SET +writing`},
		{`SET ROLE postgres`, `SET +writing`},
		{`RESET ALL`, `RESET +writing`},

		// Text that runs text.
		{`DO $$ BEGIN EXECUTE 'DROP TABLE t'; END $$`, `DO +writing +dynamic`},
		{`DO $x$ BEGIN EXECUTE format('DROP %s', 'TABLE t'); END $x$`, `DO +writing +dynamic`},
		{`EXECUTE p(1)`, `EXECUTE +writing +dynamic`},
		{`CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$ DELETE FROM t $$`, `CREATE_FUNCTION +writing +dynamic`},
		{`CREATE PROCEDURE p() LANGUAGE sql BEGIN ATOMIC DELETE FROM t; END`, `CREATE_PROCEDURE DELETE +writing r:t w:t`},
		{`SELECT * FROM dblink('x', 'DROP TABLE t') AS r(a int)`, `SELECT +writing +dynamic f:dblink`},
		{`SELECT query_to_xml('select * from pg_shadow', true, true, '')`, `SELECT +writing +dynamic f:query_to_xml`},
		{`CALL p(1)`, `CALL +writing f:p`},
		{`LOAD 'x'`, `LOAD +writing +dynamic +files`},

		// Files and programs of the host.
		{`COPY t TO PROGRAM 'curl evil'`, `COPY +writing +files r:t`},
		{`COPY (SELECT * FROM pg_shadow) TO PROGRAM 'id'`, `COPY +writing +files r:pg_shadow`},
		{`COPY t FROM '/etc/passwd'`, `COPY +writing +files w:t`},
		{`COPY t FROM STDIN`, `COPY +writing w:t`},
		{`COPY t TO STDOUT`, `COPY r:t`},
		{`COPY (DELETE FROM t RETURNING *) TO STDOUT`, `COPY DELETE +writing r:t w:t`},
		{`SELECT pg_read_file('/etc/passwd')`, `SELECT +files f:pg_read_file`},
		{`SELECT "pg_catalog"."pg_read_binary_file"('x')`, `SELECT +files f:pg_catalog.pg_read_binary_file,pg_read_binary_file`},
		{`SELECT * FROM pg_ls_dir('.')`, `SELECT +files f:pg_ls_dir`},
		{`SELECT lo_import('/etc/passwd')`, `SELECT +writing +files f:lo_import`},

		// Roles and grants, however they are spelled.
		{`CREATE USER eve SUPERUSER`, `CREATE_ROLE +writing`},
		{`CREATE GROUP eve`, `CREATE_ROLE +writing`},
		{`ALTER USER eve PASSWORD 'x'`, `ALTER_ROLE +writing`},
		{`ALTER ROLE eve SET search_path TO x`, `ALTER_ROLE +writing`},
		{`ALTER ROLE eve RENAME TO adam`, `ALTER_ROLE +writing`},
		{`DROP USER eve`, `DROP_ROLE +writing`},
		{`GRANT ALL ON t TO eve`, `GRANT +writing w:t`},
		{`GRANT admin TO eve`, `GRANT +writing`},
		{`REVOKE admin FROM eve`, `REVOKE +writing`},

		// Definitions.
		{`ALTER TABLE a.t RENAME TO u`, `ALTER_TABLE +writing w:a.t,t`},
		{`ALTER TABLE t RENAME COLUMN a TO b`, `ALTER_TABLE +writing w:t`},
		{`ALTER TABLE t ADD COLUMN a int DEFAULT f()`, `ALTER_TABLE +writing w:t f:f`},
		{`DROP TABLE a.t, u CASCADE`, `DROP_TABLE +writing w:a.t,t,a,u`},
		{`DROP TRIGGER x ON t`, `DROP_TRIGGER +writing w:t.x,x,t`},
		{`DROP SCHEMA s`, `DROP_SCHEMA +writing w:s`},
		{`DROP MATERIALIZED VIEW v`, `DROP_MATERIALIZED_VIEW +writing w:v`},
		{`TRUNCATE t, u`, `TRUNCATE +writing w:t,u`},
		{`CREATE VIEW v AS SELECT * FROM t`, `CREATE_VIEW +writing r:t w:v`},
		{`CREATE MATERIALIZED VIEW v AS SELECT * FROM t`, `CREATE_MATERIALIZED_VIEW +writing r:t w:v`},
		{`CREATE TRIGGER x AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION evil()`, `CREATE_TRIGGER +writing w:t f:evil`},
		{`CREATE RULE r AS ON INSERT TO t DO ALSO DELETE FROM u`, `CREATE_RULE DELETE +writing r:u w:t,u`},
		{`CREATE SCHEMA s CREATE TABLE st(a int)`, `CREATE_SCHEMA CREATE_TABLE +writing w:st`},
		{`CREATE EXTENSION dblink`, `CREATE_EXTENSION +writing`},
		{`ALTER SYSTEM SET x = 1`, `ALTER_SYSTEM +writing`},
		{`COMMENT ON TABLE t IS 'x'`, `COMMENT +writing w:t`},
		{`LOCK TABLE t`, `LOCK +writing w:t`},
		{`VACUUM t`, `VACUUM +writing w:t`},
		{`SHOW ALL`, `SHOW`},
		{`BEGIN`, `TRANSACTION +writing`},

		// Not to be read.
		{``, `unreadable +multiple +writing +dynamic +files`},
		{`-- nothing`, `unreadable +multiple +writing +dynamic +files`},
		{`SELEC 1`, `unreadable +multiple +writing +dynamic +files`},
		{`\! id`, `unreadable +multiple +writing +dynamic +files`},
		{`\copy t to 'x'`, `unreadable +multiple +writing +dynamic +files`},
		{"SELECT 1\x00; DROP TABLE t", `unreadable +multiple +writing +dynamic +files`},
		{"SELECT * FROM `pg_shadow`", `unreadable +multiple +writing +dynamic +files`},
		{`SELECT '` + strings.Repeat("é", 500), `unreadable +multiple +writing +dynamic +files`},
		{`SELECT '`, `unreadable +multiple +writing +dynamic +files`},
		{`SELECT /* `, `unreadable +multiple +writing +dynamic +files`},
		{strings.Repeat("/*", 30_000), `unreadable +multiple +writing +dynamic +files`},
		{"select 1 " + strings.Repeat("+", 60_000) + " 1", `unreadable +multiple +writing +dynamic +files`},
		{"/" + strings.Repeat("*", 200) + "/ SELECT 1", `SELECT`},
		{strings.Repeat("x", maxSQLBytes+1), `unreadable +multiple +writing +dynamic +files`},
	} {
		f := parseSQL(c.sql)
		if got := line(f); got != c.want {
			t.Errorf("%.80s\n got %s (%s)\nwant %s", c.sql, got, f.err, c.want)
		}
		if len(f.err) > maxSQLError+len("…") {
			t.Errorf("%.80s: an error of %d bytes", c.sql, len(f.err))
		}
		if f.parsed == (f.err != "") {
			t.Errorf("%.80s: parsed %v, error %q", c.sql, f.parsed, f.err)
		}
	}
}

func TestSQLWhere(t *testing.T) {
	for sql, want := range map[string]bool{
		`DELETE FROM t`:                                                  false,
		`DELETE FROM t WHERE true`:                                       false,
		`DELETE FROM t WHERE 1 = 1`:                                      false,
		`DELETE FROM t WHERE id = 7`:                                     true,
		`UPDATE t SET a = 1`:                                             false,
		`UPDATE t SET a = 1 WHERE 'x' <> 'y'`:                            false,
		`UPDATE t SET a = 1 WHERE id IN (SELECT 1)`:                      true,
		`DELETE FROM t WHERE CURRENT OF c`:                               true,
		`DELETE FROM t WHERE (SELECT true)`:                              false,
		`DELETE FROM t WHERE EXISTS (SELECT 1)`:                          false,
		`DELETE FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.id = t.id)`: true,
		`SELECT * FROM t WHERE a`:                                        true,
		`MERGE INTO t USING s ON true WHEN MATCHED THEN DELETE`:          false,
	} {
		if got := parseSQL(sql).statements[0].where; got != want {
			t.Errorf("%s: where = %v", sql, got)
		}
	}
	if s := parseSQL(`UPDATE t SET a = 1 RETURNING b`).statements[0]; !s.returning {
		t.Error("returning = false")
	}
}

// Every statement of the grammar has a spelling, and is writing unless it is
// one of the few known to read.
func TestSQLKinds(t *testing.T) {
	reading := []string{"SELECT", "EXPLAIN", "SHOW", "DECLARE", "FETCH", "MOVE", "CLOSE", "DEALLOCATE", "PREPARE", "COPY"}
	for sql, want := range map[string]string{
		"FETCH c": "FETCH", "MOVE c": "MOVE", "CLOSE c": "CLOSE", "DEALLOCATE p": "DEALLOCATE", "DISCARD ALL": "DISCARD",
		"LISTEN a": "LISTEN", "UNLISTEN a": "UNLISTEN", "NOTIFY a": "NOTIFY", "CHECKPOINT": "CHECKPOINT", "CLUSTER t": "CLUSTER",
		"REINDEX TABLE t": "REINDEX", "ANALYZE t": "ANALYZE", "SAVEPOINT s": "TRANSACTION", "CREATE INDEX ON t(a)": "CREATE INDEX",
		"CREATE SEQUENCE s": "CREATE SEQUENCE", "ALTER SEQUENCE s RESTART": "ALTER SEQUENCE", "CREATE DATABASE d": "CREATE DATABASE",
		"DROP DATABASE d": "DROP DATABASE", "ALTER DATABASE d SET a = 1": "ALTER DATABASE", "CREATE DOMAIN d AS int": "CREATE DOMAIN",
		"CREATE TYPE t AS ENUM ('a')": "CREATE TYPE", "CREATE TYPE t AS (a int)": "CREATE TYPE", "ALTER TYPE t ADD VALUE 'b'": "ALTER TYPE",
		"CREATE POLICY p ON t": "CREATE POLICY", "ALTER POLICY p ON t USING (true)": "ALTER POLICY", "DROP FUNCTION f(int)": "DROP FUNCTION",
		"ALTER FUNCTION f() RENAME TO g": "ALTER FUNCTION", "ALTER TABLE t OWNER TO x": "ALTER TABLE", "ALTER VIEW v SET SCHEMA x": "ALTER VIEW",
		"REFRESH MATERIALIZED VIEW v": "REFRESH MATERIALIZED VIEW", "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO x": "ALTER DEFAULT PRIVILEGES",
		"REASSIGN OWNED BY a TO b": "REASSIGN OWNED", "DROP OWNED BY a": "DROP OWNED", "CREATE PUBLICATION p": "CREATE PUBLICATION",
		"CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p": "CREATE SUBSCRIPTION", "IMPORT FOREIGN SCHEMA x FROM SERVER y INTO z": "IMPORT FOREIGN SCHEMA",
		"CREATE SERVER s FOREIGN DATA WRAPPER w": "CREATE SERVER", "CREATE USER MAPPING FOR x SERVER y": "CREATE USER MAPPING",
		"CREATE FOREIGN TABLE t(a int) SERVER s": "CREATE FOREIGN TABLE", "SECURITY LABEL ON TABLE t IS 'x'": "SECURITY LABEL",
		"CREATE AGGREGATE a(int) (sfunc = f, stype = int)": "CREATE AGGREGATE", "CREATE CAST (int AS text) WITH INOUT": "CREATE CAST",
		"CREATE OPERATOR + (leftarg = int, function = f)": "CREATE OPERATOR", "CREATE LANGUAGE l": "CREATE EXTENSION", "SET CONSTRAINTS ALL DEFERRED": "SET CONSTRAINTS",
		"CREATE EVENT TRIGGER e ON ddl_command_start EXECUTE FUNCTION f()": "CREATE EVENT TRIGGER", "CREATE TABLESPACE s LOCATION '/x'": "CREATE TABLESPACE",
		"ALTER EXTENSION x UPDATE": "ALTER EXTENSION", "CREATE ACCESS METHOD m TYPE INDEX HANDLER h": "CREATE ACCESS METHOD", "CREATE TABLE t(a int)": "CREATE TABLE",
		"CREATE STATISTICS s ON a, b FROM t": "CREATE STATISTICS", "ALTER TABLE t REPLICA IDENTITY FULL": "ALTER TABLE", "CREATE COLLATION c (locale = 'x')": "CREATE COLLATION",
	} {
		f := parseSQL(sql)
		if !f.parsed {
			t.Errorf("%s: %s", sql, f.err)
			continue
		}
		if got := f.statements[0].kind; got != want {
			t.Errorf("%s: kind = %q, want %q", sql, got, want)
		}
		if f.writing == slices.Contains(reading, want) {
			t.Errorf("%s: writing = %v", sql, f.writing)
		}
	}
}

func TestSQLPortable(t *testing.T) {
	for sql, want := range map[string]bool{
		`SELECT a FROM t WHERE b = 'x' -- comment`:         true,
		"SELECT 1 -- a\r\nFROM t":                          true,
		`SELECT a /* comment */ FROM t WHERE a = $1`:       true,
		`SELECT a /* one */ /* two */ FROM t`:              true,
		`SELECT $a$; DELETE FROM staff; --$a$`:             false, // SQLite: a variable, and a statement
		`SELECT 1 /* /* */ ; DELETE FROM staff; /* */ */`:  false, // SQLite does not nest
		`SELECT 1 /*! ; DELETE FROM staff */`:              false, // MySQL runs it
		`SELECT 1 --1; DELETE FROM staff`:                  false, // MySQL: 1 - -1
		`SELECT a[ '] ; DELETE FROM staff; --' ] FROM t`:   false, // SQLite: a name in brackets
		`SELECT E'\'; DELETE FROM staff; --'`:              false,
		`SELECT '\'; DELETE FROM staff; -- '`:              false,
		`SELECT U&'x!'';DELETE FROM staff;--' UESCAPE '!'`: false,
		"SELECT 1 -- \r FROM t":                            false,
		"SELECT 1 # 2":                                     false,
	} {
		if got := portable(sql); got != want {
			t.Errorf("%s: portable = %v", sql, got)
		}
	}
}

// Nothing that gets past the bound on depth may run over the parser's stack,
// and nothing that does not may break the parser for the next text.
func TestSQLNesting(t *testing.T) {
	shapes := map[string]func(n int) string{
		"sub":   func(n int) string { return "select " + strings.Repeat("(select ", n) + "1" + strings.Repeat(")", n) },
		"paren": func(n int) string { return "select " + strings.Repeat("(", n) + "1" + strings.Repeat(")", n) },
		"row":   func(n int) string { return "select " + strings.Repeat("(1,", n) + "1" + strings.Repeat(")", n) },
		"neg":   func(n int) string { return "select " + strings.Repeat("- ", n) + "x" },
		"not":   func(n int) string { return "select " + strings.Repeat("not ", n) + "x" },
		"plus":  func(n int) string { return "select 1" + strings.Repeat("+1", n) },
		"is":    func(n int) string { return "select " + strings.Repeat("a is null = ", n) + "1" },
		"union": func(n int) string { return "select 1,2" + strings.Repeat(" union select 1,2", n) },
		"join":  func(n int) string { return "select 1 from a" + strings.Repeat(" join a on x", n) },
		"case": func(n int) string {
			return "select " + strings.Repeat("case when x then 1 else ", n) + "1" + strings.Repeat(" end", n)
		},
		"cast":  func(n int) string { return "select 1" + strings.Repeat("::int", n) },
		"index": func(n int) string { return "select a" + strings.Repeat("[1]", n) },
		"array": func(n int) string { return "select array" + strings.Repeat("[", n) + "1" + strings.Repeat("]", n) },
		"call":  func(n int) string { return "select " + strings.Repeat("f(", n) + "1" + strings.Repeat(")", n) },
		"with": func(n int) string {
			return strings.Repeat("with a as (", n) + "select 1" + strings.Repeat(") select 1", n)
		},
		"from": func(n int) string {
			return strings.Repeat("select 1 from (", n) + "select 1" + strings.Repeat(") x", n)
		},
		"expl": func(n int) string { return strings.Repeat("explain ", n) + "select 1" },
		"open": func(n int) string { return "select " + strings.Repeat("(", n) },
		"shut": func(n int) string { return "select " + strings.Repeat(")", n) },
		"dots": func(n int) string { return "select a" + strings.Repeat(".a", n) },
		"coll": func(n int) string { return "select a" + strings.Repeat(" collate x", n) },
		"semi": func(n int) string { return strings.Repeat("select 1;", n) },
		"list": func(n int) string { return "select 1 where a in (1" + strings.Repeat(",1", n) + ")" },
		"rows": func(n int) string { return "insert into t values (1,'a')" + strings.Repeat(",(2,'b')", n) },
	}
	for name, shape := range shapes {
		for _, n := range []int{10, 200, 390, 590, 1100, 5000} {
			f := parseSQL(shape(n))
			if parserBroken.Load() {
				t.Fatalf("%s of %d broke the parser: %s", name, n, f.err)
			}
			if g := parseSQL("select 1"); !g.parsed {
				t.Fatalf("after %s of %d: %s", name, n, g.err)
			}
		}
	}
	for _, name := range []string{"list", "semi"} {
		if f := parseSQL(shapes[name](5000)); !f.parsed {
			t.Errorf("%s of 5000 is flat, and is refused: %s", name, f.err)
		}
	}
	if f := parseSQL(shapes["rows"](2500)); !f.parsed {
		t.Errorf("2500 rows are flat, and are refused: %s", f.err)
	}
}

func TestWarm(t *testing.T) {
	if err := Warm(); err != nil {
		t.Fatal(err)
	}
}

func FuzzSQL(f *testing.F) {
	for _, s := range []string{`SELECT 1`, `WITH d AS (DELETE FROM t RETURNING *) SELECT * INTO x FROM d`, `DO $$ x $$; COPY t TO PROGRAM 'x'`,
		`SELECT U&"a\0041" FROM "A"`, `EXPLAIN (ANALYZE 1) MERGE INTO t USING s ON true WHEN MATCHED THEN DELETE`, `/* /* */`, `((((`} {
		f.Add(s)
	}
	if err := Warm(); err != nil { // or the first input seems to hang
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got := parseSQL(text)
		if parserBroken.Load() {
			t.Fatalf("broke the parser: %q", text)
		}
		if got.parsed != (got.err == "") || got.parsed == (len(got.statements) == 0) {
			t.Fatalf("%q: %+v", text, got)
		}
		if !got.parsed && !(got.writing && got.multiple && got.dynamic && got.files && !got.portable) {
			t.Fatalf("%q is not read, and %+v", text, got)
		}
		for _, s := range got.statements {
			if s.kind == "" || strings.ToUpper(s.kind) != s.kind {
				t.Fatalf("%q: kind %q", text, s.kind)
			}
		}
		if again := fmt.Sprint(line(parseSQL(text))); again != line(got) {
			t.Fatalf("%q: %s, and then %s", text, line(got), again)
		}
		told(t, text, sqlDoes(got))
	})
}

func BenchmarkSQL(b *testing.B) {
	if err := Warm(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		parseSQL(`SELECT c.name, o.total FROM customers c JOIN orders o ON o.customer = c.id WHERE c.plan = 'pro' ORDER BY o.total DESC LIMIT 10`)
	}
}
