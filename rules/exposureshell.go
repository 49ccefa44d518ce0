package rules

import (
	"regexp"
	"slices"
	"strings"
)

// What shell exposes: commands of the catalogue, files of it among the words
// of programs that may show them, addresses, and what cannot be seen.

// silent are programs that show nothing of a file that they are given.
var silent = setOf(`ls dir ll stat test [ [[ rm rmdir unlink shred touch chmod chown chgrp chattr setfacl mkdir mktemp cd pushd popd basename dirname realpath readlink
	echo printf find fd fdfind locate which whereis type command du df wc sha1sum sha256sum sha512sum md5sum cksum shasum b3sum file ssh-keygen ssh-add ssh-copy-id ssh-agent
	source . exists tree lsof fuser umask true false : mount umount export declare local readonly typeset unset alias trap read mkfifo truncate getfacl namei tee for select`)

// using are programs that work with a file that these options name, and show
// nothing of it.
var using = map[string][]string{
	"ssh": {"-i", "-F", "-o"}, "scp": {"-i", "-F", "-o"}, "sftp": {"-i", "-F", "-o"}, "mosh": {"--ssh"}, "rsync": {"-e", "--rsh"}, "sshfs": {"-o"}, "autossh": {"-i"},
	"docker": {"--env-file", "--config", "--tlskey", "--secret"}, "compose": {"--env-file"}, "docker-compose": {"--env-file"}, "podman": {"--env-file", "--authfile"},
	"kubectl": {"--kubeconfig", "--client-key", "--token-file", "-f"}, "helm": {"--kubeconfig", "-f", "--values"}, "oc": {"--kubeconfig"}, "k9s": {"--kubeconfig"}, "flux": {"--kubeconfig", "--private-key-file"}, "kustomize": {}, "argocd": {"--kubeconfig"}, "kubeadm": {"--kubeconfig"},
	"ansible": {"--private-key", "--key-file", "--vault-password-file", "-e"}, "ansible-playbook": {"--private-key", "--key-file", "--vault-password-file", "-e"},
	"curl": {"-o", "--output", "--netrc-file", "--key", "--cert", "-E", "--cacert", "-b", "-c", "--cookie-jar"}, "wget": {"-O", "--output-document", "--private-key", "--certificate"},
	"gcloud": {"--key-file", "--credential-file-override"}, "terraform": {"-var-file", "-state", "-backend-config"}, "tofu": {"-var-file", "-state", "-backend-config"},
	"mysql": {"--defaults-file", "--defaults-extra-file", "--ssl-key"}, "mysqldump": {"--defaults-file", "--defaults-extra-file"}, "psql": {}, "node": {"--env-file"}, "bun": {"--env-file"}, "uv": {"--env-file"},
	"openssl": {"-inkey", "-key", "-signkey", "-keyout", "-CAkey", "-passin", "-out"}, "git": {"--git-dir"}, "cosign": {"--key"}, "nginx": {"-c"}, "http": {"--cert-key"}, "grpcurl": {"-key"}, "step": {"--key"},
	"certbot": {}, "dotenv": {"-f", "-e"}, "foreman": {"-e", "--env"}, "gpg": {"--import"}, "age": {"-i", "-o"}, "jarsigner": {"-keystore"}, "keytool": {"-keystore"}, "kinit": {"-t", "-k"},
}

// silentGit are its commands that show nothing of a file.
var silentGit = setOf("rm check-ignore status ls-files update-index restore checkout init clone")

// copying are programs whose last word is where they write.
var copying = setOf("cp mv install scp rsync ln gcp")

func setOf(words string) map[string]bool {
	m := map[string]bool{}
	for _, w := range strings.Fields(words) {
		m[w] = true
	}
	return m
}

// clients of databases, with the options that SQL follows.
var sqlClients = map[string][]string{
	"psql": {"-c", "--command"}, "mysql": {"-e", "--execute"}, "mariadb": {"-e", "--execute"}, "sqlite3": nil, "sqlcmd": {"-Q", "-q"}, "clickhouse-client": {"-q", "--query"}, "clickhouse": {"-q", "--query"},
	"cockroach": {"-e", "--execute"}, "usql": {"-c", "--command"}, "duckdb": {"-c", "-s"}, "snowsql": {"-q", "--query"}, "sqlplus": nil, "bq": nil, "pgcli": {"-e"}, "mycli": {"-e"}, "trino": {"--execute"}, "osql": {"-Q"}, "isql": nil,
}

var (
	secretName   = regexp.MustCompile(`(?i)\$\{?!?([a-z0-9_]*(?:secret|token|passw|api_?key|access_?key|private_?key|(?:ssh|encryption|signing|signature|master|secret|deploy|session|stripe|jwt|hmac|storage|account)_?key|stripe_sk|redis_url|mongo(?:db)?_ur[il]|postgres(?:ql)?_url|amqp_url|broker_url|credential|connection_string|database_url|_dsn|_auth\b|_pat\b|_pwd\b)[a-z0-9_]*)`)
	psqlMeta     = regexp.MustCompile(`^\s*\\(?:d[a-zA-Z+]*|l\+?|z|x|timing|conninfo|q|h|\?|encoding|dt|dn|du|df|dv|pset|echo|a|t|sf\+?|sv\+?)(?:\s[^|` + "`" + `\\]*)?$`)
	userAtHost   = regexp.MustCompile(`^(?:[^/:@\s]+@)?[^/:\s]+:(.+)$`)
	attachedPath = regexp.MustCompile(`^-{1,2}[A-Za-z][A-Za-z-]*?([~/.].*)$`)
)

// What is compared of one text. Each word is held against every file of the
// catalogue, a glob against all of them one by one.
const (
	maxComparedWords = 8000
	maxComparedGlobs = 6 << 10 // bytes of them, in each folder
	maxFolders       = 8
	maxFolderBytes   = 1 << 20 // of the folders, once for each word
)

// exposuresOf lists what a text of shell meets in the catalogue.
func (f *shellFacts) exposuresOf(sql func(string) *sqlFacts) []*exposure {
	if !f.parsed {
		return []*exposure{byID[idShellUnreadable]}
	}
	var found []*exposure
	if f.hidden {
		found = append(found, byID[idShellDynamic])
	}
	words, globs, folders, dirs := 0, 0, 0, f.dirs
	for _, d := range dirs {
		folders += len(d.text)
	}
	for _, c := range f.commands {
		words += 1 + len(c.args) + len(c.reads)
		for _, a := range c.args {
			if strings.ContainsAny(a.text, "*?[") {
				globs += 16
				if len(a.text) <= 4096 { // no longer path is compared
					globs += len(a.text)
				}
			}
		}
	}
	if words > maxComparedWords || globs*(1+len(dirs)) > maxComparedGlobs || words*folders > maxFolderBytes {
		return append(found, byID[idTooMuch])
	}
	for _, c := range f.commands {
		found = append(found, c.exposuresOf(dirs, sql)...)
	}
	return distinctExposures(found)
}

func (c *shellCommand) exposuresOf(dirs []shellWord, sql func(string) *sqlFacts) []*exposure {
	var found []*exposure
	name := shellName(c.name)
	if alias, ok := shellNames[name]; ok && !c.defined {
		name = alias
	}
	if c.unsure {
		found = append(found, byID[idShellDynamic])
	}
	low := make([]string, 0, len(c.args))
	bare := make([]string, 0, len(c.args))
	for _, a := range c.args {
		low, bare = append(low, strings.ToLower(a.text)), append(bare, strings.ToLower(a.bare))
	}
	try := func(patterns []commandPattern) {
		for _, p := range patterns {
			if p.matches(c, low) || p.matches(c, bare) {
				found = append(found, p.of)
			}
		}
	}
	try(byProgram[name])
	if own := shellName(c.name); own != name {
		try(byProgram[own])
	}
	for _, p := range programGlobs {
		if globMatch(p.name, name) {
			try([]commandPattern{p.commandPattern})
		}
	}
	if c.environmentShown(name) {
		found = append(found, byID["environment"])
	}
	found = append(found, c.filesShown(name, dirs)...)
	if c.homeShown(name) {
		found = append(found, byID[idHomeFolder])
	}
	found = append(found, c.variablesShown(name)...)
	if c.fileRuns(name) {
		found = append(found, byID[idSQLDynamic])
	}
	if name == "xargs" && c.listShows() {
		found = append(found, byID[idShellDynamic])
	}
	for _, text := range c.sqlTexts(name) {
		if !psqlMeta.MatchString(text) {
			found = append(found, sql(text).exposuresOf()...)
		}
	}
	for _, a := range slices.Concat(c.args, c.reads, c.writes) {
		for _, text := range []string{a.text, a.bare} {
			_, value, _ := strings.Cut(text, "=")
			found = append(found, address(text)...)
			found = append(found, address(value)...)
			found = append(found, apiPath(text)...)
			if host, ok := strings.CutPrefix(text, "/dev/tcp/"); ok {
				found = append(found, address(host)...)
			}
			if connecting[name] && !strings.Contains(text, "://") { // --resolve host:port:address, -L port:address:port
				for part := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ':' || r == ',' }) {
					found = append(found, address(part)...)
				}
			}
			if text == a.bare {
				break
			}
		}
	}
	return found
}

// filesShown lists the credential files among the words of a command that may
// show them.
func (c *shellCommand) filesShown(name string, dirs []shellWord) []*exposure {
	var found []*exposure
	for _, r := range c.reads {
		if name != "source" && name != "." {
			found = append(found, files(r, dirs)...)
		}
	}
	args := c.args
	switch {
	case name == "docker" || name == "compose": // what it mounts, it hands over
		for i, a := range args {
			option, value, ok := strings.Cut(a.text, "=")
			if !ok && i+1 < len(args) {
				value = args[i+1].text
			}
			if attached, ok := strings.CutPrefix(a.text, "-v"); ok && attached != "" {
				option, value = "-v", strings.TrimPrefix(attached, "=")
			}
			switch option {
			case "-v", "--volume", "--mount":
				for part := range strings.FieldsFuncSeq(value, func(r rune) bool { return r == ':' || r == ',' || r == '=' }) {
					found = append(found, file(part)...)
				}
				if folderMounted.MatchString(mountSource(value)) {
					found = append(found, byID[idHomeFolder])
				}
			}
		}
		if c.wraps {
			return found
		}
	case name == "sh": // of a file that is no script it complains line by line
		for _, a := range c.script {
			found = append(found, files(a, dirs)...)
		}
		return found
	case c.wraps && name != "xargs":
		return found
	case name == "source" || name == ".":
		for _, a := range args[:min(len(args), 1)] {
			found = append(found, slices.DeleteFunc(files(a, dirs), func(e *exposure) bool { return e.id == "dotenv" })...)
		}
		return found
	case silent[name] && !c.feeds && !c.defined && !slices.ContainsFunc(args, func(a shellWord) bool { return listing(name, a.text) }):
		return found
	case name == "git" && len(args) > 0 && silentGit[args[0].text]:
		return found
	case name == "grep" || name == "rg" || name == "egrep" || name == "fgrep":
		quiet := func(a shellWord) bool {
			return a.text == "--quiet" || a.text == "--count" || cluster(a.text) && strings.ContainsAny(a.text, "qcL")
		}
		if slices.ContainsFunc(args, quiet) {
			return found
		}
	case copying[name] && len(args) > 1 && !slices.ContainsFunc(args, func(a shellWord) bool {
		return strings.HasPrefix(a.text, "-t") || strings.HasPrefix(a.text, "--target")
	}):
		args = args[:len(args)-1]
	}
	if language(name) == "sed" {
		for _, a := range args {
			for _, m := range sedFiles.FindAllStringSubmatch(a.text, -1) {
				found = append(found, files(known(m[1]), dirs)...)
			}
		}
	}
	if sends[name] {
		for _, text := range c.stdin {
			for f := range strings.FieldsSeq(text) {
				found = append(found, files(known(f), dirs)...)
			}
		}
	}
	if reader[name] {
		for _, a := range args {
			found = append(found, namedFiles(a)...)
		}
	}
	if programmed[name] {
		args = withoutProgram(args)
	}
	for i, a := range args {
		option, _, _ := strings.Cut(a.text, "=")
		before := ""
		if i > 0 {
			before = args[i-1].text
		}
		if slices.Contains(using[name], option) || slices.Contains(using[name], before) || strings.HasPrefix(a.text, "of=") {
			continue
		}
		found = append(found, files(a, dirs)...)
		if a.computed && reader[name] {
			found = append(found, byID[idShellDynamic])
		}
	}
	return found
}

// programmed are programs whose first word, or what -e gives, is no file but
// what they do with files: a filter, a pattern.
var programmed = setOf("jq yq gojq sed gsed awk gawk mawk nawk grep egrep fgrep rg ag perl")

func withoutProgram(args []shellWord) []shellWord {
	var out []shellWord
	gives := func(a shellWord, last string) bool { return cluster(a.text) && strings.HasSuffix(a.text, last) }
	given := slices.ContainsFunc(args, func(a shellWord) bool { return gives(a, "e") || gives(a, "f") })
	for i, a := range args {
		switch {
		case i > 0 && gives(args[i-1], "e"):
		case !given && !strings.HasPrefix(a.text, "-"):
			given = true
		default:
			out = append(out, a)
		}
	}
	return out
}

// cluster tells whether a word is options of one letter each: -rf.
func cluster(w string) bool {
	return len(w) > 1 && w[0] == '-' && strings.Trim(w[1:], "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}

var (
	wholeFolder = regexp.MustCompile(`^(?:/|(?:~[a-z0-9_.-]*|/root|/home|/home/[^/*]+|/users|/users/[^/*]+)/?(?:\.|\*)?)$`)
	tarReads    = regexp.MustCompile(`^-?[a-zA-Z]*[cru][a-zA-Z]*$|^--(?:create|append|update)$`)
)

// homeShown tells whether a command takes a whole home folder, or all of a
// file system, along.
func (c *shellCommand) homeShown(name string) bool {
	args := c.args
	has := func(letters string, words ...string) bool {
		return slices.ContainsFunc(args, func(a shellWord) bool {
			return cluster(a.text) && strings.ContainsAny(a.text, letters) || slices.Contains(words, a.text)
		})
	}
	switch name {
	case "tar", "bsdtar", "gtar":
		if len(args) == 0 || !tarReads.MatchString(args[0].text) && !has("c", "--create") {
			return false
		}
	case "zip", "scp", "grep", "egrep", "fgrep":
		if !has("rR", "--recursive", "--recurse-paths") {
			return false
		}
	case "cp":
		if !has("rRa", "--recursive", "--archive") {
			return false
		}
	case "rg":
		if !has(".u", "--hidden") {
			return false
		}
	case "find", "fd", "fdfind":
		return c.findShows()
	case "rsync", "rclone", "gsutil", "restic", "borg":
	case "aws":
		if !has("", "sync", "--recursive") {
			return false
		}
	default:
		return false
	}
	if copying[name] || name == "rclone" || name == "gsutil" || name == "aws" {
		args = args[:max(len(args)-1, 0)]
	}
	for i, a := range args {
		if i > 0 && (args[i-1].text == "-C" || args[i-1].text == "--directory" || strings.HasPrefix(args[i-1].text, "--exclude")) {
			continue
		}
		if wholeFolder.MatchString(strings.ToLower(a.text)) {
			return true
		}
	}
	return false
}

// findShows tells whether find has the content of every file of a home folder
// shown: nothing restricts it by name.
func (c *shellCommand) findShows() bool {
	whole, shows := false, false
	for i := 0; i < len(c.args); i++ {
		text := c.args[i].text
		switch {
		case strings.HasPrefix(text, "-") && findNames[strings.TrimLeft(text, "-")]:
			return false
		case wholeFolder.MatchString(strings.ToLower(text)):
			whole = true
		case slices.Contains(findRuns, text):
			for i++; i < len(c.args) && c.args[i].text != ";" && (c.args[i].text != "+" || c.args[i-1].text != "{}"); i++ {
				shows = shows || slices.ContainsFunc(strings.Fields(c.args[i].text), func(w string) bool { return reader[shellName(w)] })
			}
		}
	}
	return whole && shows
}

// findNames restrict find to names; findRuns have it run a command.
var (
	findNames = setOf("name iname path ipath wholename iwholename regex iregex samefile lname ilname e extension g glob")
	findRuns  = []string{"-exec", "-execdir", "-ok", "-okdir", "-x", "-X", "--exec", "--exec-batch"}
)

// sends are programs that are told on standard input which files to send.
var sends = setOf("sftp ftp lftp cpio")

// connecting are programs that take an address among other things in a word.
var connecting = setOf("curl ssh autossh socat nc ncat")

// listing tells whether a silent program is told to take names from a file:
// those that it does not find it shows.
func listing(name, option string) bool {
	option, _, _ = strings.Cut(option, "=")
	switch option {
	case "--files0-from", "-files0-from":
		return true
	case "-f", "--files-from":
		return name == "file"
	case "-c", "--check":
		return strings.HasSuffix(name, "sum")
	}
	return false
}

var sedFiles = regexp.MustCompile(`(?:^|[;{}\n0-9$/!])\s*[rRwW]\s*([^\s;}]+)`)

// fileVariables are variables that name a file of credentials.
var fileVariables = map[string]string{
	"KUBECONFIG": "kubeconfig", "GOOGLE_APPLICATION_CREDENTIALS": "cloud-credentials", "AWS_SHARED_CREDENTIALS_FILE": "cloud-credentials",
	"AWS_CONFIG_FILE": "cloud-credentials", "AWS_WEB_IDENTITY_TOKEN_FILE": "service-account-token", "AZURE_FEDERATED_TOKEN_FILE": "service-account-token",
	"NETRC": "client-passwords", "PGPASSFILE": "client-passwords", "VAULT_TOKEN_FILE": "client-passwords", "NPM_CONFIG_USERCONFIG": "client-passwords",
	"KRB5CCNAME": "kerberos-tickets", "HISTFILE": "history-file", "CLOUDSDK_CONFIG": "cloud-credentials", "DOCKER_CONFIG": "docker-auth",
}

var variableName = regexp.MustCompile(`\$([A-Za-z_][A-Za-z0-9_]*)`)

// namedFiles lists the files of variables that are not set in the text.
func namedFiles(w shellWord) []*exposure {
	if !w.unknown {
		return nil
	}
	var found []*exposure
	for _, m := range variableName.FindAllStringSubmatch(w.text, 8) {
		if id, ok := fileVariables[m[1]]; ok {
			found = append(found, byID[id])
		}
	}
	return found
}

var (
	jqEnvironment = regexp.MustCompile(`(?:^|[\s|(\[,;:])env\s*(?:$|[|.\[\]),;}]|as\s)|\$ENV\b|\$__prog_env\b`)
	yqEnvironment = regexp.MustCompile(`(?:^|[\s|(\[,;:=])(?:str)?env\(|\benvsubst\b`)
	psLetters     = regexp.MustCompile(`^[aAcefghjklmnNopqrsStTuUvwxXZ]*e[aAcefghjklmnNopqrsStTuUvwxXZ]*$`)
)

// environmentShown tells what the patterns of the catalogue cannot: whether a
// filter asks for the environment, and what the letters are that ps has.
func (c *shellCommand) environmentShown(name string) bool {
	switch name {
	case "jq", "gojq", "jaq":
		for i, a := range c.args { // --arg env x names a variable
			if jqEnvironment.MatchString(a.text) && !strings.HasPrefix(a.text, "-") && !slices.ContainsFunc(c.args[max(i-2, 0):i], func(a shellWord) bool { return a.text == "--arg" || a.text == "--argjson" }) {
				return true
			}
		}
	case "yq":
		return slices.ContainsFunc(c.args, func(a shellWord) bool { return yqEnvironment.MatchString(a.text) })
	case "ps":
		for i, a := range c.args {
			takes := i > 0 && cluster(c.args[i-1].text) && strings.ContainsAny(c.args[i-1].text[len(c.args[i-1].text)-1:], "CGgNoOpqstuUk")
			if a.text == "-E" || !takes && psLetters.MatchString(a.text) {
				return true
			}
		}
	}
	return false
}

// reader are programs that show what a word names: one that the shell makes of
// other texts could be any file.
var reader = setOf("cat tac head tail less more nl bat batcat strings xxd od hexdump base64 base32 cp dd grep egrep fgrep rg sort uniq cut tr rev paste curl scp rsync tar zip openssl vi vim view nano jq yq awk sed source .")

// files lists what a word names as a path: whole, behind "=", "@" or ":", and
// seen from each folder that the text goes to.
func files(w shellWord, dirs []shellWord) []*exposure {
	var found []*exposure
	for _, text := range []string{w.text, w.bare} {
		for _, p := range pathsIn(text) {
			found = append(found, file(p)...)
			if strings.HasPrefix(p, "/") || strings.HasPrefix(p, "~") {
				continue
			}
			for _, dir := range dirs {
				found = append(found, file(dir.text+"/"+p)...)
			}
		}
		if w.text == w.bare {
			break
		}
	}
	return distinctExposures(found)
}

// pathsIn lists the paths that a word may hold.
func pathsIn(word string) []string {
	word = strings.Trim(word, `"'`)
	paths := []string{strings.TrimPrefix(word, "file://")}
	if _, value, ok := strings.Cut(word, "="); ok {
		paths = append(paths, strings.TrimPrefix(strings.TrimPrefix(value, "@"), "file://"))
	}
	if i := strings.LastIndexByte(word, '@'); i >= 0 {
		paths = append(paths, word[i+1:])
	}
	if m := userAtHost.FindStringSubmatch(word); m != nil && !strings.Contains(word, "://") {
		first, _, _ := strings.Cut(word, ":")
		paths = append(paths, m[1], first) // host:/file, /file:/where
	}
	if m := attachedPath.FindStringSubmatch(word); m != nil {
		paths = append(paths, m[1])
	}
	return paths
}

// variablesShown tells whether a command prints a variable that is named like
// a credential.
func (c *shellCommand) variablesShown(name string) []*exposure {
	shown := func(w shellWord) bool {
		return w.unknown && (w.indirect || secretName.MatchString(w.text))
	}
	switch name {
	case "echo", "printf", "print", "write", "wall", "logger", "say", "dig", "nslookup", "host", "ping", "ping6", "drill", "getent":
		if slices.ContainsFunc(c.args, shown) {
			return []*exposure{byID[idSecretVariable]}
		}
	case "cat", "tee", "base64", "xxd", "od", "rev", "head", "tail", "curl", "wget", "nc", "ncat", "mail", "sendmail", "sort", "tr", "envsubst":
		if slices.ContainsFunc(c.stdin, secretName.MatchString) {
			return []*exposure{byID[idSecretVariable]}
		}
	}
	return nil
}

// mountSource is what of the host -v or --mount gives a container.
func mountSource(value string) string {
	source, _, _ := strings.Cut(value, ":")
	for part := range strings.SplitSeq(value, ",") {
		key, from, ok := strings.Cut(part, "=")
		if ok && (key == "source" || key == "src") {
			source = from
		}
	}
	return strings.ToLower(source)
}

// folderMounted tells a folder of the host that holds credentials of many kinds.
var folderMounted = regexp.MustCompile(`^(?:/+|~|\$\{?home\}?|/+(?:etc|root|home|users|proc|run|var|var/run|var/lib|home/[^/]+|users/[^/]+))(?:/\.?)*$`)

// fileRuns tells whether a client of a database runs what a file holds, which
// nobody sees here: psql -f file, mysql < file.
func (c *shellCommand) fileRuns(name string) bool {
	if _, ok := sqlClients[name]; !ok {
		return false
	}
	for _, r := range c.reads {
		if r.text != "/dev/null" {
			return true
		}
	}
	options := sqlFiles[name]
	for _, a := range c.args {
		option, _, _ := strings.Cut(a.text, "=")
		for _, o := range options {
			short := len(o) == 2 && len(a.text) > 2 && strings.HasPrefix(a.text, o)
			if option == o || short || len(o) == 2 && cluster(a.text) && strings.HasSuffix(a.text, o[1:]) {
				return true
			}
		}
		if sqlIncludes.MatchString(a.text) {
			return true
		}
	}
	return slices.ContainsFunc(c.stdin, sqlIncludes.MatchString)
}

// sqlFiles are the options that name a file of SQL.
var sqlFiles = map[string][]string{
	"psql": {"-f", "--file"}, "cockroach": {"-f", "--file"}, "usql": {"-f", "--file"}, "sqlcmd": {"-i"}, "osql": {"-i"}, "clickhouse-client": {"--queries-file"},
	"clickhouse": {"--queries-file"}, "duckdb": {"-f"}, "snowsql": {"-f", "--filename"}, "trino": {"-f", "--file"}, "sqlite3": {"-init"}, "pgcli": {"-f", "--file"},
}

// sqlIncludes are the clients' own words for it.
var sqlIncludes = regexp.MustCompile(`(?im)^\s*(?:\\i(?:r|nclude|nclude_relative)?|\\\.|source|\.read|@@?)\s*[^\s@]`)

// listShows tells whether xargs hands the words of a file, which nobody sees
// here, to what shows files: xargs cat < list.
func (c *shellCommand) listShows() bool {
	listed := slices.ContainsFunc(c.reads, func(r shellWord) bool { return r.text != "/dev/null" })
	for _, a := range c.args {
		listed = listed || a.text == "--arg-file" || strings.HasPrefix(a.text, "--arg-file=") || strings.HasPrefix(a.text, "-a")
	}
	return listed && slices.ContainsFunc(c.args, func(a shellWord) bool {
		return slices.ContainsFunc(strings.Fields(a.text), func(w string) bool { return reader[shellName(w)] })
	})
}

// sqlTexts lists the SQL that a command hands to a client of a database.
func (c *shellCommand) sqlTexts(name string) []string {
	options, ok := sqlClients[name]
	if !ok {
		return nil
	}
	use := ""
	if (name == "mysql" || name == "mariadb") && slices.ContainsFunc(c.args, func(a shellWord) bool {
		return a.text == "mysql" || a.text == "--database=mysql" || a.text == "-Dmysql"
	}) {
		use = "USE mysql; "
	}
	texts := slices.Clone(c.stdin)
	if slices.ContainsFunc(c.args, streamed) {
		texts = append(texts, "") // no SQL that can be read
	}
	for i, a := range c.args {
		option, value, eq := strings.Cut(a.text, "=")
		switch {
		case slices.Contains(options, option) && eq:
			texts = append(texts, value)
		case i > 0 && slices.Contains(options, c.args[i-1].text):
			texts = append(texts, a.text)
		case len(a.text) > 2 && slices.Contains(options, a.text[:2]):
			texts = append(texts, a.text[2:])
		case !strings.HasPrefix(a.text, "-") && sqlVerbs.MatchString(a.text) && strings.ContainsAny(a.text, " \n\t/("):
			texts = append(texts, a.text)
		}
	}
	for i := range texts {
		texts[i] = use + texts[i]
	}
	return texts
}
