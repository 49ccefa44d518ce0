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
	idShellDynamic    = "shell-dynamic"
	idShellUnreadable = "shell-unreadable"
	idSecretVariable  = "secret-variable"
	idKubeSecret      = "kubernetes-secret"
	idVaultTool       = "secret-tool"
	idTooMuch         = "too-much"
)

var sqlCatalogue = []exposure{
	{id: idSQLDynamic, kind: "sql", words: "runs SQL that is put together when it runs", source: postgres + "sql-do.html"},
	{id: idSQLUnreadable, kind: "sql", words: "is SQL that cannot be read", source: postgres + "sql-syntax.html"},
	{id: idSQLPassword, kind: "sql", words: "sets a password, which stands in its text", source: postgres + "sql-alterrole.html",
		phrases: []string{"identified by", "identified with", "set password", "create login", "alter login", "sp_addlogin", "sp_password", "sp_addlinkedsrvlogin", "create credential", "pragma key", "pragma rekey"}},
	{id: idSQLFile, kind: "sql", words: "reads or writes files, or runs programs, on the database's host", source: postgres + "sql-copy.html"},
	{id: idSQLSettings, kind: "sql", words: "shows settings of the server that hold passwords", source: postgres + "runtime-config-replication.html",
		functions: []string{"pg_show_all_settings"}},
	{id: "pg-shadow", kind: "sql", words: "reads the password hashes of PostgreSQL's roles", source: postgres + "catalog-pg-authid.html",
		relations: []string{"pg_shadow", "pg_authid"}, commands: []string{"pg_dumpall !--no-role-passwords|--tablespaces-only|-t"}},
	{id: "pg-user-mapping", kind: "sql", words: "reads passwords for foreign servers", source: postgres + "catalog-pg-user-mapping.html",
		relations: []string{"pg_user_mapping", "pg_user_mappings", "information_schema.user_mapping_options", "user_mapping_options", "_pg_user_mappings"}},
	{id: "pg-subscription", kind: "sql", words: "reads the connection strings of subscriptions, passwords included", source: postgres + "catalog-pg-subscription.html",
		relations: []string{"pg_subscription", "pg_stat_wal_receiver"}, functions: []string{"pg_stat_get_wal_receiver"}},
	{id: "pg-hba", kind: "sql", words: "reads the server's authentication rules and configuration files", source: postgres + "view-pg-hba-file-rules.html",
		relations: []string{"pg_hba_file_rules", "pg_ident_file_mappings", "pg_file_settings"},
		functions: []string{"pg_hba_file_rules", "pg_ident_file_mappings", "pg_show_all_file_settings"}},
	{id: "pg-file-function", kind: "sql", words: "reads files of the database's host", source: postgres + "functions-admin.html",
		functions: []string{"pg_read_*", "pg_ls_*", "pg_stat_file", "pg_file_*", "pg_logdir_ls", "pg_current_logfile", "lo_import", "lo_export"}},
	{id: "pg-dblink", kind: "sql", words: "runs SQL through a connection that its text describes", source: postgres + "dblink.html",
		functions: []string{"dblink*"}},
	{id: "pg-vault-extension", kind: "sql", words: "reads secrets that are kept in the database", source: "https://supabase.com/docs/guides/database/vault",
		relations: []string{"vault.secrets", "vault.decrypted_secrets", "decrypted_secrets", "pgsodium.key", "pgsodium.decrypted_key", "auth.users", "auth.refresh_tokens", "auth.one_time_tokens"}},
	{id: "pg-citus", kind: "sql", words: "reads the passwords of a cluster's nodes", source: "https://docs.citusdata.com/en/stable/develop/api_metadata.html",
		relations: []string{"pg_dist_authinfo", "pg_dist_poolinfo"}},
	{id: "mysql-user", kind: "sql", words: "reads the password hashes of MySQL's accounts", source: mysql + "grant-tables.html",
		relations: []string{"mysql.user", "mysql.global_priv", "mysql.password_history"}, phrases: []string{"show create user"},
		commands: []string{"mysqldump|mariadb-dump|mysqlpump mysql", "mysqldump|mariadb-dump|mysqlpump -a|--all-databases|--system"}},
	{id: "mysql-replication", kind: "sql", words: "reads the passwords of replication and of remote servers", source: mysql + "replica-logs-status.html",
		relations: []string{"mysql.slave_master_info", "mysql.servers", "slave_master_info"}},
	{id: "mysql-file", kind: "sql", words: "reads or writes files of the database's host", source: mysql + "select-into.html",
		functions: []string{"load_file", "sys_exec", "sys_eval", "sys_get", "do_system"},
		phrases:   []string{"into outfile", "into dumpfile", "load data", "load xml"}},
	{id: "mssql-logins", kind: "sql", words: "reads the password hashes of SQL Server's logins", source: mssql + "relational-databases/system-catalog-views/sys-sql-logins-transact-sql",
		relations: []string{"sql_logins", "syslogins", "sysxlogins", "linked_logins", "syslnklgns", "sysusers"}, functions: []string{"loginproperty"}, phrases: []string{"loginproperty"}},
	{id: "mssql-shell", kind: "sql", words: "runs programs or reads files and the registry through SQL Server", source: mssql + "relational-databases/system-stored-procedures/xp-cmdshell-transact-sql",
		relations: []string{"xp_cmdshell"}, functions: []string{"xp_*", "sp_oacreate", "sp_oamethod"},
		phrases: []string{"xp_cmdshell", "xp_regread", "xp_dirtree", "xp_fileexist", "xp_servicecontrol", "sp_oacreate", "sp_oamethod", "sp_execute_external_script", "bulk insert"}},
	{id: "mssql-remote", kind: "sql", words: "reads files, or other servers with a login of its own", source: mssql + "t-sql/functions/openrowset-transact-sql",
		functions: []string{"openrowset", "opendatasource", "openquery"}, phrases: []string{"openrowset", "opendatasource", "openquery"}},
	{id: "mssql-keys", kind: "sql", words: "reads or opens keys that SQL Server keeps", source: mssql + "relational-databases/security/encryption/encryption-hierarchy",
		functions: []string{"decryptbykey*", "decryptbypassphrase", "decryptbycert", "decryptbyasymkey"}, phrases: []string{"open symmetric key", "open master key", "backup master key", "backup service master key"}},
	{id: "oracle-users", kind: "sql", words: "reads the password hashes of Oracle's users and links", source: oracle + "DBA_USERS.html",
		relations: []string{"user$", "sys.user$", "dba_users", "user_history$", "link$", "dba_users_with_defpwd", "dba_credentials", "scheduler$_credential", "default_pwd$"}},
	{id: "oracle-host", kind: "sql", words: "reaches files, programs or the network through Oracle's packages", source: "https://docs.oracle.com/en/database/oracle/oracle-database/23/arpls/",
		functions: []string{"utl_file.*", "dbms_java.*", "dbms_scheduler.*", "dbms_backup_restore.*", "utl_http.*", "dbms_lob.loadfromfile", "bfilename", "dbms_xslprocessor.*", "dbms_advisor.*"},
		phrases:   []string{"organization external", "utl_file", "utl_http", "dbms_java", "dbms_scheduler", "bfilename"}},
	{id: "sqlite-file", kind: "sql", words: "reads files or loads code through SQLite", source: "https://www.sqlite.org/cli.html",
		functions: []string{"readfile", "writefile", "load_extension", "fts3_tokenizer"}, phrases: []string{"attach database", "^attach"},
		commands: []string{"sqlite3 *.shell*|*.system*|*.load*|*.import*|*.read*"}},
	{id: "clickhouse-users", kind: "sql", words: "reads users, named collections or files of ClickHouse", source: "https://clickhouse.com/docs/operations/system-tables/users",
		relations: []string{"system.users", "system.named_collections"}, phrases: []string{"show create named collection", "show named collections"}},
	{id: "snowflake-secret", kind: "sql", words: "reads secrets that Snowflake keeps", source: "https://docs.snowflake.com/en/sql-reference/sql/create-secret",
		functions: []string{"get_generic_secret_string", "get_username_password", "get_oauth_access_token", "system$get_secret*"}, phrases: []string{"get_generic_secret_string", "get_username_password"}},
}

var placeCatalogue = []exposure{
	{id: "system-passwords", kind: "file", words: "reads the password hashes of a system", source: "https://man7.org/linux/man-pages/man5/shadow.5.html",
		files:    []string{"/etc/shadow*", "/etc/gshadow*", "/etc/master.passwd", "/etc/security/passwd", "/etc/security/opasswd", "/private/var/db/dslocal/**", "windows/system32/config/sam", "windows/system32/config/security", "windows/ntds/ntds.dit", "ntds.dit", "/etc/krb5.keytab", "*.keytab", "/etc/sudoers"},
		commands: []string{"getent shadow|gshadow", "unshadow", "reg save|export", "mimikatz", "secretsdump*", "impacket-secretsdump", "vssadmin create"}},
	{id: "environment-file", kind: "file", words: "reads the environment of a process, which holds credentials", source: "https://man7.org/linux/man-pages/man5/proc_pid_environ.5.html",
		files: []string{"/proc/*/environ", "/proc/*/task/*/environ", "/proc/*/mem", "/proc/*/map_files/**", "/proc/kcore", "/dev/mem", "/dev/kmem"}},
	{id: "ssh-key", kind: "file", words: "reads private keys of SSH", source: "https://man.openbsd.org/ssh-keygen",
		files: []string{".ssh/", ".ssh/id_*", "id_rsa", "id_dsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk", ".ssh/*_key", ".ssh/*_rsa", ".ssh/*.pem", ".ssh/identity", "/etc/ssh/ssh_host_*_key", "*.ppk"}},
	{id: "private-key-file", kind: "file", words: "reads a private key", source: "https://docs.openssl.org/master/man1/openssl-pkey/",
		files: []string{"*.key", "*-key.pem", "*_key.pem", "key.pem", "privkey*.pem", "private*.pem", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "*.kdb", "*.agekey", ".age/**", "/etc/ssl/private/**", "/etc/letsencrypt/live/**", "/etc/letsencrypt/archive/**", "sops/age/keys.txt"}},
	{id: "cloud-credentials", kind: "file", words: "reads credentials of a cloud account", source: awsDocs + "cli/latest/userguide/cli-configure-files.html",
		files: []string{".aws/", ".aws/credentials", ".aws/credentials.*", ".aws/config", ".aws/sso/cache/**", ".aws/cli/cache/**", ".boto", ".s3cfg", ".config/gcloud/**", "application_default_credentials.json", "access_tokens.db", "gcloud/credentials.db", "gcloud/legacy_credentials/**",
			".azure/**", ".config/doctl/config.yaml", ".oci/**", ".bluemix/**", ".aliyun/config.json", ".config/hcloud/cli.toml", ".linode-cli", ".config/linode-cli", ".fly/config.yml", ".config/scw/config.yaml", ".vercel/auth.json", "com.vercel.cli/auth.json",
			".netlify/config.json", ".wrangler/config/**", "service-account*.json", "service_account*.json", "serviceaccount*.json", "gcp-key*.json", ".config/rclone/rclone.conf", "rclone.conf", ".mc/config.json"}},
	{id: "kubeconfig", kind: "kubernetes", words: "reads a kubeconfig, which holds keys and tokens of a cluster", source: kubeDocs + "concepts/configuration/organize-cluster-access-kubeconfig/",
		files:    []string{".kube/", ".kube/config", ".kube/config.*", ".kube/*.yaml", ".kube/*.conf", "kubeconfig", "kubeconfig.yaml", "kubeconfig.yml", "*.kubeconfig", "/etc/kubernetes/*.conf", "/etc/rancher/k3s/k3s.yaml", "/etc/kubernetes/pki/**", "/var/lib/kubelet/pki/**"},
		commands: []string{"kubectl|oc config view --raw", "kubectl|oc config view --flatten", "kind get kubeconfig", "k3d kubeconfig get|write|merge", "kops export kubeconfig|kubecfg", "eksctl utils write-kubeconfig", "oc whoami -t|--show-token", "minikube config view"}},
	{id: "service-account-token", kind: "kubernetes", words: "reads the token of a Kubernetes service account", source: kubeDocs + "tasks/configure-pod-container/configure-service-account/",
		files:    []string{"/var/run/secrets/kubernetes.io/**", "/run/secrets/kubernetes.io/**", "secrets/kubernetes.io/serviceaccount/token", "/var/run/secrets/eks.amazonaws.com/**", "/run/secrets/eks.amazonaws.com/**", "/var/run/secrets/azure/tokens/**", "/var/lib/kubelet/pods/**"},
		commands: []string{"kubectl|oc create token", "kubectl|oc serviceaccounts|sa get-token|new-token|create-kubeconfig", "kubectl|oc exec-credential", "aws eks get-token", "gke-gcloud-auth-plugin", "kubelogin get-token", "aws-iam-authenticator token"},
		urls:     []string{"*/api/v1/namespaces/*/serviceaccounts/*/token", "*/apis/authentication.k8s.io/**"}, calls: []string{"createserviceaccounttoken", "requesttoken"}},
	{id: idKubeSecret, kind: "kubernetes", words: "reads secrets of Kubernetes", source: kubeDocs + "concepts/configuration/secret/",
		commands: []string{"kubectl|oc|kubecolor get|edit " + kubeSecrets + " !can-i|explain", "kubectl|oc extract secret*|" + kubeSecrets, "kubectl|oc set env --list --resolve", "helm get values|manifest|all|hooks", "kubectl-view-secret|kubectl-view_secret", "kubectl view-secret|view_secret|modify-secret",
			"kubeseal --recovery-unseal", "velero backup download", "etcdctl get /registry*|--prefix", "kubectl cluster-info dump", "kubectl|oc get --raw */secrets*"},
		urls: []string{"*/api/v1/secrets/**", "*/api/v1/namespaces/*/secrets/**", "*/api/v1/watch/secrets/**", "*/api/v1/watch/namespaces/*/secrets/**", "*/registry/secrets/**"}},
	{id: "docker-auth", kind: "file", words: "reads credentials of container registries", source: "https://docs.docker.com/reference/cli/docker/login/",
		files:    []string{".docker/", ".docker/config.json", ".dockercfg", ".dockerconfigjson", "containers/auth.json", ".config/containers/auth.json", "/var/lib/kubelet/config.json", "/root/.docker/config.json", ".docker/contexts/**"},
		commands: []string{"docker-credential-* get|list", "aws ecr get-login-password|get-login|get-authorization-token", "aws ecr-public get-login-password|get-authorization-token", "az acr login --expose-token", "az acr credential show"}},
	{id: "docker-inspect", kind: "shell", words: "shows the environment of containers, which holds credentials", source: "https://docs.docker.com/reference/cli/docker/inspect/",
		commands: []string{"docker inspect !network|volume|image|plugin|context|buildx|manifest|node|swarm|config", "docker container|service inspect", "docker secret inspect --showsecret", "crictl inspect|inspectp", "ctr containers info", "docker compose config|convert !-q|--quiet|--services|--images|--profiles", "docker-compose config !-q|--quiet|--services"},
		urls:     []string{"*/containers/*/json", "*/v1.*/containers/*/json"}, files: []string{"/run/secrets/**", "/var/lib/docker/containers/**"}},
	{id: "git-credentials", kind: "git", words: "reads credentials of Git hosts", source: "https://git-scm.com/docs/gitcredentials",
		files: []string{".git-credentials", ".config/git/credentials", ".git/config", ".gitconfig", ".git-credential-cache/**", ".cache/git/credential/**", ".config/gh/hosts.yml", ".config/glab-cli/config.yml", ".config/hub"},
		commands: []string{"git credential fill", "git credential-store|credential-cache|credential-manager|credential-osxkeychain|credential-libsecret|credential-wincred|credential-gcm get", "git-credential-* get",
			"git config --list|-l|--get-regexp|list", "git config credential*|*.token|*.password|*extraheader*|url.*|*.oauthtoken", "git config --get|--get-all|get credential*|*.token|*extraheader*|*.password|url.*",
			"gh auth token", "gh auth status --show-token|-t", "gh auth git-credential get", "gh config get oauth_token", "glab auth status -t|--show-token", "glab config get token", "hub api -t"},
		urls: []string{"api.github.com/app/installations/*/access_tokens", "*/api/v4/projects/*/variables/**", "*/api/v4/groups/*/variables/**"}},
	{id: "dotenv", kind: "file", words: "reads an environment file, which holds credentials", source: "https://12factor.net/config",
		files: []string{".env", ".env.*", "*.env", ".envrc", ".flaskenv", ".dev.vars", ".secrets", ".secrets.*", "/etc/environment.d/**", "/etc/default/countersign"}},
	{id: "client-passwords", kind: "file", words: "reads passwords that clients keep", source: "https://www.postgresql.org/docs/current/libpq-pgpass.html",
		files: []string{".netrc", "_netrc", ".pgpass", "pgpass.conf", ".pg_service.conf", ".my.cnf", ".mylogin.cnf", ".mongorc.js", ".rediscli_auth", ".cqlshrc", ".snowsql/config", ".dbshell", ".npmrc", ".yarnrc.yml", ".pypirc", "pip.conf", ".gem/credentials", ".cargo/credentials", ".cargo/credentials.toml",
			".m2/settings.xml", ".m2/settings-security.xml", ".gradle/gradle.properties", ".composer/auth.json", "nuget.config", ".terraformrc", ".terraform.d/credentials.tfrc.json", "terraform.rc", ".vault-token", ".vault_pass*", "vault_pass*", ".config/op/**", ".password-store/**", ".gnupg/**",
			".htpasswd", ".smbcredentials", ".cifs", ".muttrc", ".msmtprc", ".fetchmailrc", ".databrickscfg", ".dbt/profiles.yml", ".kaggle/kaggle.json", ".huggingface/token", "huggingface/token", ".config/configstore/**", ".openai/**", ".claude/.credentials.json", ".codex/auth.json", "filezilla/recentservers.xml", "filezilla/sitemanager.xml", "wp-config.php", "web.config", "hudson.util.secret", "credentials.xml", "master.key", "config/credentials.yml.enc", "secrets.yml", "secrets.yaml", "secrets.json", "secrets.toml", "*.tfstate", "*.tfstate.backup", "terraform.tfvars", "*.auto.tfvars"}},
	{id: "browser-store", kind: "file", words: "reads passwords or cookies that a browser or keyring keeps", source: "https://support.mozilla.org/en-US/kb/profiles-where-firefox-stores-user-data",
		files:    []string{"logins.json", "key4.db", "key3.db", "signons.sqlite", "cookies.sqlite", "*/login data", "*/cookies", "*/login data for account", "chrome/user data/local state", "google-chrome/local state", "*.keychain", "*.keychain-db", "library/keychains/**", ".local/share/keyrings/**", ".mozilla/**", "kwalletd/**"},
		commands: []string{"security find-generic-password|find-internet-password|dump-keychain|export|find-key", "secret-tool lookup|search", "keyring get", "kwallet-query", "cmdkey /list", "lazagne*", "vaultcmd /listcreds*"}},
	{id: "history-file", kind: "file", words: "reads what was typed, passwords included", source: bashDocs + "#Bash-History-Facilities",
		files:    []string{".bash_history", ".zsh_history", ".sh_history", ".ash_history", ".history", ".python_history", ".psql_history", ".mysql_history", ".sqlite_history", ".rediscli_history", ".node_repl_history", ".lesshst", ".viminfo", "fish/fish_history", "consolehost_history.txt", ".zhistory"},
		commands: []string{"history $", "history 1*|2*|3*|4*|5*|6*|7*|8*|9*", "fc -l|-ln|-nl", "atuin search|history", "get-history"}},
	{id: "metadata-address", kind: "address", words: "asks the cloud's metadata service, which gives out credentials", source: awsDocs + "AWSEC2/latest/UserGuide/instancedata-data-retrieval.html",
		hosts: []string{"169.254.169.254", "169.254.170.2", "169.254.170.23", "fd00:ec2::254", "fd00:ec2::23", "fe80::a9fe:a9fe", "100.100.100.200", "192.0.0.192", "168.63.129.16", "169.254.42.42",
			"metadata.google.internal", "metadata.goog", "metadata", "metadata.azure.internal", "metadata.azure.com", "instance-data", "instance-data.ec2.internal", "metadata.tencentyun.com", "metadata.packet.net", "metadata.platformequinix.com", "rancher-metadata", "api.metadata.cloud.ibm.com"},
		commands: []string{"ec2-metadata", "ec2metadata", "cloud-init query *", "gce-metadata*"}},
}

// kubeSecrets are the spellings by which kubectl takes secrets, alone and in a
// list.
const kubeSecrets = "secret|secrets|secret/*|secrets/*|secret.*|secrets.*|secret,*|secrets,*|*,secret|*,secrets|*,secret/*|*,secrets/*|*,secret,*|*,secrets,*|sealedsecret*|externalsecret*"

var commandCatalogue = []exposure{
	{id: idShellDynamic, kind: "shell", words: "runs what is known only when it runs", source: bashDocs + "#index-eval"},
	{id: idShellUnreadable, kind: "shell", words: "is a shell text that cannot be read", source: bashDocs + "#Shell-Grammar"},
	{id: idSecretVariable, kind: "shell", words: "shows a variable that is named like a credential", source: "https://12factor.net/config"},
	{id: "environment", kind: "shell", words: "shows the whole environment, which holds credentials", source: "https://pubs.opengroup.org/onlinepubs/9799919799/utilities/env.html",
		commands: []string{"env %", "printenv $", "printenv *secret*|*token*|*passw*|*key*|*credential*|*_url|*dsn*", "set .", "export|declare|typeset|local|readonly .", "export|declare|typeset|readonly -p|-x|-px|-xp $", "declare|typeset -p *secret*|*token*|*passw*|*key*|*credential*", "ps e|eww|auxe|auxeww|axe|axeww|axew|auxew", "systemctl show-environment",
			"launchctl getenv|export", "jq env|*$env*", "compgen -v -e", "gcore", "gdb -p|--pid", "procdump*", "get-childitem|gci|dir|ls env:*", "pm2 env", "tmux show-environment|showenv", "dump-env*"},
		urls: []string{"*/actuator/env/**", "*/actuator/heapdump", "*/actuator/configprops", "*/env/heapdump", "*/debug/vars", "*/phpinfo.php", "*/_profiler/phpinfo"}},
	{id: "vault", kind: "vault", words: "reads secrets or tokens of Vault", source: vaultDocs + "api-docs",
		commands: []string{"vault|bao kv get|export", "vault|bao read !policy|auth|plugin", "vault|bao unwrap|login", "vault|bao token create|lookup", "vault|bao print token", "vault|bao write -field", "vault|bao write *creds*|*/issue/*|auth/*|sys/wrapping/unwrap|transit/decrypt/*", "vault|bao lease lookup", "vault|bao operator init|generate-root|rekey|raft", "vault|bao ssh", "consul kv get|export", "nomad var get", "boundary *get-token*"},
		urls:     []string{"*/v1/secret/**", "*/v1/kv/**", "*/v1/**/creds/**", "*/v1/**/static-creds/**", "*/v1/auth/**", "*/v1/sys/wrapping/**", "*/v1/transit/export/**", "*/v1/transit/decrypt/**", "*/v1/cubbyhole/**", "*/v1/**/issue/**", "*/v1/sys/raw/**", "*/v1/sys/init", "*/v1/sys/generate-root/**", "*vault*/v1/**/data/**", "*:8200/v1/**"}},
	{id: "aws-secrets", kind: "cloud", words: "reads secrets or credentials of AWS", source: awsDocs + "secretsmanager/latest/apireference/API_GetSecretValue.html",
		commands: []string{"aws secretsmanager *get-secret-value", "aws ssm get-parameter*|get-parameters-by-path --with-decryption", "aws configure export-credentials", "aws configure get *secret*|*token*|*access_key*", "aws sts get-session-token|assume-role*|get-federation-token", "aws sso get-role-credentials", "aws iam create-access-key|create-service-specific-credential|create-login-profile|reset-service-specific-credential",
			"aws cognito-identity get-credentials*|get-open-id-token*", "aws rds generate-db-auth-token", "aws redshift get-cluster-credentials*", "aws redshift-serverless get-credentials", "aws kms decrypt|generate-data-key*", "aws lambda get-function|get-function-configuration", "aws codeartifact get-authorization-token", "aws ec2 get-password-data|describe-instance-attribute|create-key-pair", "aws lightsail download-default-key-pair|get-instance-access-details",
			"aws-vault exec|export", "saml2aws script|exec", "chamber read|export|exec|env", "credstash get|getall"},
		urls:  []string{"secretsmanager.*.amazonaws.com/**", "sts.amazonaws.com/**", "sts.*.amazonaws.com/**", "ssm.*.amazonaws.com/**", "kms.*.amazonaws.com/**"},
		calls: []string{"getsecretvalue", "batchgetsecretvalue", "getsessiontoken", "assumerole", "assumerolewithwebidentity", "assumerolewithsaml", "getfederationtoken", "getrolecredentials", "createaccesskey", "getclustercredentials", "getpassworddata", "generatedatakey", "secretsmanagergetsecretvalue"}},
	{id: "gcp-secrets", kind: "cloud", words: "reads secrets or tokens of Google Cloud", source: "https://cloud.google.com/sdk/gcloud/reference/secrets/versions/access",
		commands: []string{"gcloud secrets versions access", "gcloud auth print-access-token|print-identity-token|application-default", "gcloud config config-helper", "gcloud iam service-accounts keys create", "gcloud kms decrypt", "gcloud sql generate-login-token", "gcloud compute reset-windows-password"},
		urls:     []string{"secretmanager.googleapis.com/**", "*/v1/projects/*/secrets/*/versions/*:access", "iamcredentials.googleapis.com/**", "oauth2.googleapis.com/token", "cloudkms.googleapis.com/**"},
		calls:    []string{"accesssecretversion", "generateaccesstoken", "generateidtoken", "signjwt", "signblob", "createserviceaccountkey"}},
	{id: "azure-secrets", kind: "cloud", words: "reads secrets or tokens of Azure", source: "https://learn.microsoft.com/en-us/cli/azure/keyvault/secret",
		commands: []string{"az keyvault secret show|download|backup", "az keyvault key|certificate download|decrypt", "az account get-access-token", "az ad sp create-for-rbac|credential", "az ad app credential", "az storage account keys list", "az storage account|container|blob generate-sas|show-connection-string", "az cosmosdb keys list", "az redis list-keys", "az servicebus|eventhubs *keys*", "az webapp|functionapp config appsettings list", "az webapp|functionapp config connection-string list", "az webapp|functionapp *list-publishing*", "az functionapp keys list", "az aks get-credentials -", "az iot hub connection-string show", "az sql db show-connection-string", "az appconfig kv list|show", "az acr credential show", "az monitor *shared-keys*", "az vm *retrieve-password*"},
		urls:     []string{"*.vault.azure.net/secrets/**", "*.vault.azure.net/keys/**", "management.azure.com/**/listkeys", "*.managedhsm.azure.net/**"}, calls: []string{"listkeys", "getsecret", "listaccountsas", "listsecrets", "listadminkeys"}},
	{id: "secret-managers", kind: "vault", words: "reads what a secret manager keeps", source: "https://developer.1password.com/docs/cli/secrets-scripts/",
		commands: []string{"op read|inject", "op item|document get", "op item list|get --reveal", "op run --no-masking", "op connect token", "op user get --reveal", "bw get|list|export|unlock|serve", "bws secret get|list", "rbw get|list|code", "lpass show|export", "dashlane-cli|dcli password|read|note|p", "keepassxc-cli show|clip|export", "kpcli", "pass show|otp|grep|edit|*/*", "gopass show|cat|find|otp", "passage show", "doppler secrets $", "doppler secrets get|download|substitute", "doppler configure get token", "infisical secrets $", "infisical secrets get", "infisical export", "akeyless get-secret-value|get-dynamic-secret-value", "conjur variable get", "summon", "teller show|export|env|yaml", "berglas access|exec", "sops -d|--decrypt|decrypt|exec-env|exec-file|edit", "ansible-vault view|decrypt|edit", "git-crypt unlock|export-key", "git secret reveal|cat", "blackbox_cat|blackbox_edit", "chezmoi secret", "ejson decrypt", "eyaml decrypt|edit", "age -d|--decrypt", "rage -d|--decrypt", "gpg|gpg2 -d|--decrypt|--export-secret-keys|--export-secret-subkeys|--export-secret-key", "openssl rsa|pkey|ec|pkcs12|pkcs8 -in !-pubout|-noout|-nokeys|-export", "systemd-creds decrypt|cat", "tpm2_unseal", "clevis decrypt", "heroku config $", "heroku config:get|auth:token", "fly|flyctl auth token", "vercel env pull", "netlify env:get|env:list", "railway variables", "pulumi config get", "pulumi config|stack|env --show-secrets", "pulumi stack export", "terraform|tofu output|show -json|-raw", "terraform|tofu console", "terraform|tofu state pull", "circleci context", "buildkite-agent secret get", "npm token list|create", "npm config get *auth*", "pip config list|get", "wrangler secret get", "supabase status", "stripe config --list", "doctl auth list", "snyk config get", "oathtool", "ykman oath"},
		urls:     []string{"api.doppler.com/**", "*/v1/vaults/*/items/**", "app.infisical.com/api/**/secrets/**", "*/secrets/raw/**", "vault.bitwarden.com/**", "api.bitwarden.com/**"},
		calls:    []string{"getsecretversion", "readsecret", "revealsecret", "secretread"}},
	{id: idVaultTool, kind: "vault", words: "is a tool that reads secrets, by its name", source: "https://modelcontextprotocol.io/specification/2025-11-25/server/tools"},
	{id: idTooMuch, kind: "shell", words: "holds more than is looked at", source: "https://modelcontextprotocol.io/specification/2025-11-25/server/tools"},
	{id: "redis-secrets", kind: "shell", words: "reads passwords of a Redis server", source: "https://redis.io/docs/latest/commands/acl-list/",
		commands: []string{"redis-cli|valkey-cli config get requirepass|masterauth|*|*pass*", "redis-cli|valkey-cli acl list|getuser", "mongosh|mongo *getusers*|*system.users*|*showcredentials*"}},
	{id: "kerberos-tickets", kind: "file", words: "reads tickets of Kerberos", source: "https://web.mit.edu/kerberos/krb5-latest/doc/basic/ccache_def.html",
		files: []string{"/tmp/krb5cc_*", "/var/lib/sss/db/**", "*.ccache", "*.kirbi"}},
}
