package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"sort"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
)

// config is everything that `countersign serve` reads from its environment.
// The comment behind each field is what `serve --help` prints. A field marked
// secret may also come from the file that <NAME>_FILE names.
type config struct {
	ID             string         `env:"COUNTERSIGN_ID,required,notEmpty" help:"name of this enforcer, in the record and its branches: [a-z0-9-], at most 40"`
	Listen         string         `env:"COUNTERSIGN_LISTEN" envDefault:"127.0.0.1:8080" help:"address to serve on"`
	PublicURL      string         `env:"COUNTERSIGN_PUBLIC_URL,required,notEmpty" help:"the URL that clients use, scheme://host[:port]; other Host headers are refused"`
	TLSCert        string         `env:"COUNTERSIGN_TLS_CERT" help:"certificate file (PEM); serves plain HTTP without"`
	TLSKey         string         `env:"COUNTERSIGN_TLS_KEY" help:"key file (PEM)"`
	TrustedProxies []netip.Prefix `env:"COUNTERSIGN_TRUSTED_PROXIES" help:"networks whose X-Forwarded-For is believed, e.g. 10.0.0.0/8"`
	UpstreamCerts  string         `env:"COUNTERSIGN_UPSTREAM_CERTS" help:"folder of the certificates and keys that servers of the policy may name under tls; read again when they change"`
	StateDir       string         `env:"COUNTERSIGN_STATE_DIR" envDefault:"/var/lib/countersign" help:"journal, policy clone, approvals, control socket; one enforcer each"`
	ShutdownGrace  time.Duration  `env:"COUNTERSIGN_SHUTDOWN_GRACE" envDefault:"20s" help:"how long calls under way may finish after SIGTERM"`
	LogLevel       string         `env:"COUNTERSIGN_LOG_LEVEL" envDefault:"info" help:"debug, info, warn or error"`

	PolicyRepo       string        `env:"COUNTERSIGN_POLICY_REPO,required,notEmpty" help:"Git URL of the policy: https://, ssh:// or a path"`
	PolicyRef        string        `env:"COUNTERSIGN_POLICY_REF" envDefault:"refs/heads/main" help:"branch, or signed tag"`
	PolicySigners    []string      `env:"COUNTERSIGN_POLICY_SIGNERS,required,notEmpty" help:"files with trusted keys: OpenSSH allowed_signers and/or OpenPGP keyrings; the word 'unverified' switches verification off"`
	PolicyPoll       time.Duration `env:"COUNTERSIGN_POLICY_POLL" envDefault:"15s" help:"how often the repository is asked"`
	PolicyMaxAge     time.Duration `env:"COUNTERSIGN_POLICY_MAX_AGE" envDefault:"1h" help:"without a confirming fetch for this long, nothing is served; 0 for no limit"`
	PolicyResetTo    string        `env:"COUNTERSIGN_POLICY_RESET_TO" help:"commit to accept though it does not descend from the last accepted one; recorded"`
	PolicyGitToken   string        `env:"COUNTERSIGN_POLICY_GIT_TOKEN" secret:"yes" help:"token for this repository, where it differs"`
	PolicyGitSSHKey  string        `env:"COUNTERSIGN_POLICY_GIT_SSH_KEY" secret:"yes" help:"SSH key for this repository, where it differs"`
	PolicyKnownHosts string        `env:"COUNTERSIGN_POLICY_GIT_KNOWN_HOSTS" secret:"yes" help:"known_hosts for this repository, where they differ"`

	GitSSHKey     string `env:"COUNTERSIGN_GIT_SSH_KEY" secret:"yes" help:"OpenSSH private key for Git over SSH"`
	GitKnownHosts string `env:"COUNTERSIGN_GIT_KNOWN_HOSTS" secret:"yes" help:"known_hosts lines; SSH without them is refused"`
	GitToken      string `env:"COUNTERSIGN_GIT_TOKEN" secret:"yes" help:"token for Git over HTTPS"`

	OIDCIssuers     []string `env:"COUNTERSIGN_OIDC_ISSUERS,required,notEmpty" help:"issuer URLs whose access tokens are accepted"`
	OIDCAudience    string   `env:"COUNTERSIGN_OIDC_AUDIENCE" help:"audience that tokens must name; by default the public URL, or the URL of the very endpoint that is called"`
	OIDCGroupsClaim string   `env:"COUNTERSIGN_OIDC_GROUPS_CLAIM" envDefault:"groups" help:"claim that lists the subject's groups"`

	AuditRepo                string        `env:"COUNTERSIGN_AUDIT_REPO,required,notEmpty" help:"Git URL that the record is pushed to; with {yyyy}, {mm} or {n} in it, the record goes on in another repository with the year, the month or the size"`
	AuditCommitKey           string        `env:"COUNTERSIGN_AUDIT_COMMIT_KEY" secret:"yes" help:"OpenSSH ed25519 private key that signs the record's commits; or the next variable"`
	AuditCommitVault         string        `env:"COUNTERSIGN_AUDIT_COMMIT_KEY_VAULT" help:"<mount>/<name> of an ed25519 key of Vault's transit engine that does, or <mount>/<name>@<version>; the newest version at the start without"`
	AuditCommitPrevious      string        `env:"COUNTERSIGN_AUDIT_COMMIT_KEY_PREVIOUS" secret:"yes" help:"while keys change: the key before, which says in the record what the new one is"`
	AuditCommitPrevVault     string        `env:"COUNTERSIGN_AUDIT_COMMIT_KEY_PREVIOUS_VAULT" help:"the same, in Vault"`
	AuditCheckpointKey       string        `env:"COUNTERSIGN_AUDIT_CHECKPOINT_KEY" secret:"yes" help:"another OpenSSH ed25519 private key: signs the checkpoints; or the next variable"`
	AuditCheckpointVault     string        `env:"COUNTERSIGN_AUDIT_CHECKPOINT_KEY_VAULT" help:"<mount>/<name> of one of Vault's transit engine that does, or <mount>/<name>@<version>"`
	AuditCheckpointPrevious  string        `env:"COUNTERSIGN_AUDIT_CHECKPOINT_KEY_PREVIOUS" secret:"yes" help:"while keys change: the key before, which signs checkpoints beside the new one"`
	AuditCheckpointPrevVault string        `env:"COUNTERSIGN_AUDIT_CHECKPOINT_KEY_PREVIOUS_VAULT" help:"the same, in Vault"`
	AuditWindow              time.Duration `env:"COUNTERSIGN_AUDIT_WINDOW" envDefault:"10s" help:"how often the record is pushed at most"`
	AuditRollBytes           int64         `env:"COUNTERSIGN_AUDIT_ROLL_BYTES" envDefault:"1073741824" help:"bytes pushed to a repository at which the record goes on in the next, where COUNTERSIGN_AUDIT_REPO holds {n}"`
	AuditJournalMax          int64         `env:"COUNTERSIGN_AUDIT_JOURNAL_MAX" envDefault:"1073741824" help:"bytes of unpublished journal at which calls are refused"`
	AuditWitnesses           string        `env:"COUNTERSIGN_AUDIT_WITNESSES" help:"file of witnesses, with their URLs, that are asked to cosign every checkpoint before it is pushed (c2sp.org/tlog-policy)"`
	AuditPeerKeys            string        `env:"COUNTERSIGN_AUDIT_PEER_KEYS" help:"file of the other enforcers' checkpoint keys, a line each: <enforcer> ssh-ed25519 <key>; their newest checkpoints in the same repository are then recorded here"`
	AuditGitToken            string        `env:"COUNTERSIGN_AUDIT_GIT_TOKEN" secret:"yes" help:"token for this repository, where it differs"`
	AuditGitSSHKey           string        `env:"COUNTERSIGN_AUDIT_GIT_SSH_KEY" secret:"yes" help:"SSH key for this repository, where it differs"`
	AuditKnownHosts          string        `env:"COUNTERSIGN_AUDIT_GIT_KNOWN_HOSTS" secret:"yes" help:"known_hosts for this repository, where they differ"`

	NATSURL string `env:"COUNTERSIGN_NATS_URL" secret:"yes" help:"external NATS for approvals and freezes: three replicas in a cluster, one where the server stands alone; embedded without"`

	PseudonymKey string `env:"COUNTERSIGN_PSEUDONYM_KEY" secret:"yes" help:"at least 32 characters: keys the pseudonyms of field rules, and of subjects in the record, which stay the same as long as it does; without it, a key that stays in the state directory (shared over NATS) does"`

	TokenExchange string `env:"COUNTERSIGN_TOKEN_EXCHANGE" secret:"yes" help:"clients of ours at issuers that exchange callers' tokens (RFC 8693): a JSON list of {\"issuer\", \"client_id\", and \"client_secret\" or \"private_key\" (PEM) with \"key_id\"}"`

	VaultAddr       string `env:"VAULT_ADDR" help:"Vault; without it no rule can name a credential that Vault mints (Vault's other VAULT_* apply too)"`
	VaultAuth       string `env:"COUNTERSIGN_VAULT_AUTH" envDefault:"token" help:"how the enforcer logs in: token, approle, kubernetes, jwt or cert"`
	VaultMount      string `env:"COUNTERSIGN_VAULT_AUTH_MOUNT" help:"where that login is mounted, below auth/; by default as it is called"`
	VaultRole       string `env:"COUNTERSIGN_VAULT_AUTH_ROLE" help:"for kubernetes, jwt and cert: the role; for cert it may be left out"`
	VaultJWTPath    string `env:"COUNTERSIGN_VAULT_AUTH_JWT_PATH" help:"for kubernetes and jwt: the file that holds the token, read at each login; by default, for kubernetes, the pod's own"`
	VaultClientCert string `env:"VAULT_CLIENT_CERT" help:"for cert: file with our certificate (PEM); Vault's own variable"`
	VaultClientKey  string `env:"VAULT_CLIENT_KEY" help:"for cert: file with its private key (PEM)"`
	VaultToken      string `env:"VAULT_TOKEN" secret:"yes" help:"for token"`
	VaultRoleID     string `env:"VAULT_ROLE_ID" secret:"yes" help:"for approle"`
	VaultSecretID   string `env:"VAULT_SECRET_ID" secret:"yes" help:"for approle"`

	ApprovalsClientID     string   `env:"COUNTERSIGN_APPROVALS_CLIENT_ID" help:"OpenID Connect client of the approval page, <public URL>/approvals; there is none without. Its own: no token for MCP names it as audience"`
	ApprovalsClientSecret string   `env:"COUNTERSIGN_APPROVALS_CLIENT_SECRET" secret:"yes" help:"its secret; without, it is a public client"`
	ApprovalsIssuer       string   `env:"COUNTERSIGN_APPROVALS_ISSUER" help:"which of COUNTERSIGN_OIDC_ISSUERS people sign in at to approve; needed if there are several"`
	ApprovalsScopes       []string `env:"COUNTERSIGN_APPROVALS_SCOPES" envDefault:"openid,profile,email" help:"scopes that are asked for, openid among them; more where the issuer gives groups, or acr, for one"`

	Bot                string `env:"COUNTERSIGN_BOT" envDefault:"on" help:"off: this enforcer asks nobody itself, since processes of their own do (countersign bot), over COUNTERSIGN_NATS_URL"`
	SlackBotToken      string `env:"SLACK_BOT_TOKEN" secret:"yes" help:"xoxb-…; without it nobody is asked in Slack"`
	SlackAppToken      string `env:"SLACK_APP_TOKEN" secret:"yes" help:"xapp-…: Socket Mode"`
	SlackSigningSecret string `env:"SLACK_SIGNING_SECRET" secret:"yes" help:"HTTP mode: interactions are posted to /slack/interactions"`
	SlackAPIURL        string `env:"SLACK_API_URL" help:"for tests"`

	GitHubAppID          int64  `env:"COUNTERSIGN_GITHUB_APP_ID" help:"GitHub App for Git tokens and check runs"`
	GitHubInstallationID int64  `env:"COUNTERSIGN_GITHUB_INSTALLATION_ID" help:"its installation"`
	GitHubPrivateKey     string `env:"COUNTERSIGN_GITHUB_PRIVATE_KEY" secret:"yes" help:"its private key (PEM)"`
	GitHubChecksRepo     string `env:"COUNTERSIGN_GITHUB_CHECKS_REPO" help:"owner/name of the policy repository, to show policy state as check runs"`
	GitHubAPIURL         string `env:"COUNTERSIGN_GITHUB_API_URL" help:"for GitHub Enterprise and tests"`
}

// What COUNTERSIGN_BOT may say.
const (
	botOn  = "on"
	botOff = "off"
)

// loadConfig reads the environment. All that is wrong is reported at once,
// each with what was expected.
func loadConfig(environ []string) (config, error) {
	vars := env.ToMap(environ)
	problems := readSecretFiles(vars)
	var c config
	err := env.ParseWithOptions(&c, env.Options{Environment: vars, FuncMap: map[reflect.Type]env.ParserFunc{
		reflect.TypeFor[netip.Prefix](): func(s string) (any, error) { return netip.ParsePrefix(strings.TrimSpace(s)) },
	}})
	var agg env.AggregateError
	if errors.As(err, &agg) {
		for _, e := range agg.Errors {
			problems = append(problems, describe(e))
		}
	} else if err != nil {
		problems = append(problems, err.Error())
	}
	problems = append(problems, c.check()...)
	if err := problemsError(problems); err != nil {
		return c, err
	}
	c.PublicURL = strings.TrimSuffix(c.PublicURL, "/")
	if c.OIDCAudience == "" {
		c.OIDCAudience = c.PublicURL
	}
	return c, nil
}

// problemsError reports what is wrong, all at once; nil if nothing is.
func problemsError(problems []string) error {
	if len(problems) == 0 {
		return nil
	}
	sort.Strings(problems)
	return fmt.Errorf("the environment is not right:\n  %s\nsee `countersign serve --help` for each variable", strings.Join(problems, "\n  "))
}

// readSecretFiles puts the content of <NAME>_FILE under NAME.
func readSecretFiles(vars map[string]string) (problems []string) {
	for _, f := range configFields() {
		path, ok := vars[f.name+"_FILE"]
		if !ok || !f.secret {
			continue
		}
		if vars[f.name] != "" {
			problems = append(problems, fmt.Sprintf("%s and %s_FILE are both set: choose one", f.name, f.name))
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			problems = append(problems, fmt.Sprintf("%s_FILE: %v", f.name, err))
			continue
		}
		if vars[f.name] = string(bytes.TrimRight(b, "\r\n")); vars[f.name] == "" {
			problems = append(problems, fmt.Sprintf("%s_FILE: %s is empty", f.name, path))
		}
	}
	return problems
}

// describe turns the library's errors into ours, which name the variable and
// what it is for.
func describe(err error) string {
	var missing env.VarIsNotSetError
	var empty env.EmptyVarError
	var parse env.ParseError
	switch {
	case errors.As(err, &missing):
		return fmt.Sprintf("%s is missing: %s", missing.Key, fieldHelp(missing.Key))
	case errors.As(err, &empty):
		return fmt.Sprintf("%s is empty: %s", empty.Key, fieldHelp(empty.Key))
	case errors.As(err, &parse):
		for _, f := range configFields() {
			if f.field == parse.Name {
				return fmt.Sprintf("%s: %v; want %s", f.name, parse.Err, f.help)
			}
		}
	}
	return err.Error()
}

// check holds what the types cannot say.
func (c config) check() (problems []string) {
	bad := func(name, format string, args ...any) {
		problems = append(problems, name+": "+fmt.Sprintf(format, args...))
	}
	if strings.Trim(c.ID, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || len(c.ID) > 40 {
		bad("COUNTERSIGN_ID", "%q: want %s", c.ID, fieldHelp("COUNTERSIGN_ID"))
	}
	if u, err := url.Parse(c.PublicURL); c.PublicURL != "" && (err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || strings.Trim(u.Path, "/") != "") {
		bad("COUNTERSIGN_PUBLIC_URL", "%q: want scheme://host[:port] without a path", c.PublicURL)
	}
	if _, err := controlPath(c.StateDir); err != nil {
		problems = append(problems, err.Error())
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		bad("COUNTERSIGN_TLS_CERT, COUNTERSIGN_TLS_KEY", "set both or neither")
	}
	if c.UpstreamCerts != "" {
		if info, err := os.Stat(c.UpstreamCerts); err != nil || !info.IsDir() || !filepath.IsAbs(c.UpstreamCerts) {
			bad("COUNTERSIGN_UPSTREAM_CERTS", "%q: want the absolute path of a folder that is there", c.UpstreamCerts)
		}
	}
	atLeast := func(name string, have, want time.Duration) {
		if have < want {
			bad(name, "%s: want at least %s", have, want)
		}
	}
	atLeast("COUNTERSIGN_POLICY_POLL", c.PolicyPoll, time.Second)
	atLeast("COUNTERSIGN_POLICY_MAX_AGE", c.PolicyMaxAge, 0)
	atLeast("COUNTERSIGN_SHUTDOWN_GRACE", c.ShutdownGrace, time.Second)
	atLeast("COUNTERSIGN_AUDIT_WINDOW", c.AuditWindow, 100*time.Millisecond)
	if c.AuditJournalMax < 1<<16 {
		bad("COUNTERSIGN_AUDIT_JOURNAL_MAX", "%d: want at least %d bytes", c.AuditJournalMax, 1<<16)
	}
	for _, s := range c.OIDCIssuers {
		if u, err := url.Parse(s); err != nil || u.Host == "" {
			bad("COUNTERSIGN_OIDC_ISSUERS", "%q: want an issuer's URL", s)
		}
	}
	if c.PseudonymKey != "" && len(c.PseudonymKey) < 32 {
		bad("COUNTERSIGN_PSEUDONYM_KEY", "too short: want at least 32 characters")
	}
	c.checkRoll(bad)
	c.checkVault(bad)
	c.checkApprovals(bad)
	switch {
	case c.Bot != botOn && c.Bot != botOff:
		bad("COUNTERSIGN_BOT", "%q: want on or off", c.Bot)
	case c.Bot == botOff && c.NATSURL == "":
		bad("COUNTERSIGN_BOT", "off: want COUNTERSIGN_NATS_URL beside it, where the bots are met")
	}
	if c.SlackBotToken == "" && (c.SlackAppToken != "" || c.SlackSigningSecret != "") {
		bad("SLACK_BOT_TOKEN", "missing: the other Slack variables do nothing without it")
	}
	if c.SlackBotToken != "" && c.SlackAppToken == "" && c.SlackSigningSecret == "" {
		bad("SLACK_APP_TOKEN or SLACK_SIGNING_SECRET", "one is needed beside SLACK_BOT_TOKEN: without it no button press arrives")
	}
	if c.GitHubAppID != 0 && (c.GitHubInstallationID == 0 || c.GitHubPrivateKey == "") {
		bad("COUNTERSIGN_GITHUB_INSTALLATION_ID, COUNTERSIGN_GITHUB_PRIVATE_KEY", "both are needed beside COUNTERSIGN_GITHUB_APP_ID")
	}
	if c.GitHubChecksRepo != "" && (strings.Count(c.GitHubChecksRepo, "/") != 1 || c.GitHubAppID == 0) {
		bad("COUNTERSIGN_GITHUB_CHECKS_REPO", "%q: want owner/name, and COUNTERSIGN_GITHUB_APP_ID beside it", c.GitHubChecksRepo)
	}
	return append(problems, c.checkAuditKeys()...)
}

// configField is one variable, for help and error texts.
type configField struct {
	name, field, def, help string
	secret, required       bool
}

func configFields() []configField {
	var out []configField
	t := reflect.TypeFor[config]()
	for i := range t.NumField() {
		f := t.Field(i)
		name, opts, _ := strings.Cut(f.Tag.Get("env"), ",")
		out = append(out, configField{name: name, field: f.Name, def: f.Tag.Get("envDefault"), help: f.Tag.Get("help"),
			secret: f.Tag.Get("secret") != "", required: strings.Contains(opts, "required")})
	}
	return out
}

func fieldHelp(name string) string {
	for _, f := range configFields() {
		if f.name == name {
			return f.help
		}
	}
	return ""
}

// configHelp is the table of variables in `serve --help`.
func configHelp() string {
	var b strings.Builder
	for _, f := range configFields() {
		note := ""
		switch {
		case f.required:
			note = " (required)"
		case f.def != "":
			note = " (default " + f.def + ")"
		}
		if f.secret {
			note += " (or " + f.name + "_FILE)"
		}
		fmt.Fprintf(&b, "  %s%s\n      %s\n", f.name, note, f.help)
	}
	return b.String()
}

// unknownVariables are those that look like ours and are not: misspelt ones,
// most likely. They are no error, since Kubernetes makes variables out of the
// names of services.
func unknownVariables(environ []string) (names []string) {
	known := map[string]bool{profileVar: true}
	for _, f := range configFields() {
		known[f.name] = true
		known[f.name+"_FILE"] = f.secret
	}
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, "COUNTERSIGN_") && !strings.HasPrefix(name, "COUNTERSIGN_TEST_") && !known[name] {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	return names
}

// secrets are the values that must appear nowhere, by variable. Public keys
// of hosts are marked secret above only so that they may come from a file.
func (c config) secrets() map[string]string {
	out := map[string]string{}
	v := reflect.ValueOf(c)
	for _, f := range configFields() {
		if f.secret && !strings.HasSuffix(f.name, "KNOWN_HOSTS") && f.name != "VAULT_ROLE_ID" {
			if s := v.FieldByName(f.field).String(); s != "" {
				out[f.name] = s
			}
		}
	}
	return out
}
