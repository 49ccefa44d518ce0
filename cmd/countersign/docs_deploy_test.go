package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"countersign/fixtures/peer"
	"countersign/fixtures/stage"
)

// The configuration, manifests, variables and metrics that docs/operate.md and deploy/ show, held
// against the program.

// docEnv is the configuration that the page shows, its secrets in the page's folder.
func docEnv(s *shell) map[string]string {
	s.t.Helper()
	blocks := docBlocks(s.t, "docs/operate.md", "env")
	if len(blocks) != 1 {
		s.t.Fatalf("%d env blocks", len(blocks))
	}
	vars := map[string]string{}
	for line := range strings.Lines(blocks[0]) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(line, "#") {
			vars[name] = strings.Replace(value, "/etc/countersign", s.path("gate/secrets"), 1)
		}
	}
	return vars
}

// servesAsThePageSays starts the program on the page's configuration, with addresses of this
// machine in it.
func servesAsThePageSays(s *shell, st *stage.Stage, v *peer.Vault) *program {
	t := s.t
	for name, text := range map[string]string{
		"policy_token": "unused-over-a-path", "github_key": "unused-over-a-path",
		"slack_bot_token": st.Slack.Token(), "slack_app_token": st.Slack.AppToken(),
	} {
		s.write("gate/secrets/"+name, text+"\n", 0o600)
	}
	vars := map[string]string{ // of the stage, and not of the page
		"COUNTERSIGN_POLICY_POLL": "", "COUNTERSIGN_AUDIT_WINDOW": "", "SLACK_SIGNING_SECRET_FILE": "", "VAULT_ROLE_ID": "",
	}
	maps.Copy(vars, docEnv(s))
	var environ []string
	for k, val := range vars {
		if val != "" {
			environ = append(environ, k+"="+val)
		}
	}
	if _, err := loadConfig(environ); err != nil {
		t.Fatalf("the configuration on the page: %v", err)
	}
	for _, e := range s.env {
		if host, ok := strings.CutPrefix(e, "HOST="); ok {
			vars["COUNTERSIGN_POLICY_REPO"], vars["COUNTERSIGN_AUDIT_REPO"] = host+"/countersign-policy.git", host+"/countersign-record.git"
		}
	}
	maps.Copy(vars, map[string]string{
		"COUNTERSIGN_PUBLIC_URL": st.URL, "COUNTERSIGN_OIDC_ISSUERS": st.Issuer.URL, "VAULT_ADDR": v.Address, "COUNTERSIGN_STATE_DIR": s.path("state"),
	})
	p := serving(t, st, vars)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := st.Slack.Await(ctx, func() bool { return st.Slack.Sockets() > 0 }); err != nil {
		t.Errorf("Socket Mode: %v", err)
	}
	return p
}

// secretsAreThere checks that the page made every file that the manifest and the page's own
// configuration read, but for those that come from a service's web page.
func secretsAreThere(s *shell) {
	elsewhere := []string{"policy_token", "github_key", "slack_bot_token", "slack_app_token"}
	for _, vars := range []map[string]string{docEnv(s), kubernetes(s.t).config} {
		for name, value := range vars {
			if file := filepath.Base(value); (strings.HasSuffix(name, "_FILE") || name == "COUNTERSIGN_POLICY_SIGNERS") && !slices.Contains(elsewhere, file) {
				s.read("gate/secrets/" + file)
			}
		}
	}
}

// cluster is what a manifest asks for.
type cluster struct {
	config map[string]string
	own    map[string]string // variables beside the ConfigMap's; "" where it is a field of the pod
	image  string
	args   []string
	mounts []string
	probes map[string]string
	kinds  []string
}

func kubernetes(t *testing.T) cluster { return manifest(t, "deploy/kubernetes.yaml", 1) }

func manifest(t *testing.T, name string, replicas int) (c cluster) {
	t.Helper()
	type probe struct {
		HTTPGet struct{ Path, Port string } `yaml:"httpGet"`
	}
	type object struct {
		Kind     string
		Metadata struct{ Name string }
		Data     map[string]string
		Spec     struct {
			Replicas int
			Template struct {
				Spec struct {
					Containers []struct {
						Image           string
						Args            []string
						Env             []struct{ Name, Value string }
						EnvFrom         []map[string]map[string]string `yaml:"envFrom"`
						StartupProbe    probe                          `yaml:"startupProbe"`
						LivenessProbe   probe                          `yaml:"livenessProbe"`
						ReadinessProbe  probe                          `yaml:"readinessProbe"`
						SecurityContext struct {
							ReadOnlyRootFilesystem bool `yaml:"readOnlyRootFilesystem"`
						} `yaml:"securityContext"`
						VolumeMounts []struct {
							MountPath string `yaml:"mountPath"`
						} `yaml:"volumeMounts"`
					}
				}
			}
		}
	}
	dec := yaml.NewDecoder(strings.NewReader(docPage(t, name)))
	for {
		var o object
		if err := dec.Decode(&o); errors.Is(err, io.EOF) {
			return c
		} else if err != nil {
			t.Fatal(err)
		}
		c.kinds = append(c.kinds, o.Kind)
		switch o.Kind {
		case "ConfigMap":
			c.config = o.Data
		case "StatefulSet":
			if n := len(o.Spec.Template.Spec.Containers); n != 1 || o.Spec.Replicas != replicas {
				t.Fatalf("%d containers, %d replicas", n, o.Spec.Replicas)
			}
			box := o.Spec.Template.Spec.Containers[0]
			if !box.SecurityContext.ReadOnlyRootFilesystem {
				t.Error("the root can be written")
			}
			c.image, c.args, c.own = box.Image, box.Args, map[string]string{}
			for _, v := range box.Env {
				c.own[v.Name] = v.Value
			}
			c.probes = map[string]string{"startup": box.StartupProbe.HTTPGet.Path, "liveness": box.LivenessProbe.HTTPGet.Path, "readiness": box.ReadinessProbe.HTTPGet.Path}
			for _, m := range box.VolumeMounts {
				c.mounts = append(c.mounts, m.MountPath)
			}
		}
	}
}

// The bot's manifest differs from the enforcer's where a bot differs from an enforcer, and what both
// say together is a configuration.
func TestTheManifestOfTheBot(t *testing.T) {
	gate, bot := kubernetes(t), manifest(t, "deploy/kubernetes-bot.yaml", 2)
	if !slices.Equal(bot.kinds, []string{"Service", "StatefulSet"}) || bot.image != gate.image || !maps.Equal(bot.probes, gate.probes) || !slices.Equal(bot.mounts, gate.mounts) ||
		!slices.Equal(bot.args, []string{"bot"}) {
		t.Errorf("%+v\n%+v", bot, gate)
	}
	vars := maps.Clone(gate.config)
	maps.Copy(vars, bot.own)
	vars["COUNTERSIGN_ID"] = "countersign-bot-0"
	vars["COUNTERSIGN_NATS_URL"], vars["COUNTERSIGN_BOT"] = "nats://nats.internal.example.com:4222", "off"
	var environ []string
	for name, value := range vars {
		if short, file := strings.CutSuffix(name, "_FILE"); file {
			name, value = short, "what "+value+" holds"
		}
		environ = append(environ, name+"="+value)
	}
	c, err := loadConfig(environ)
	if err == nil {
		err = c.checkBot()
	}
	if err != nil {
		t.Error(err)
	}
}

// manifestsHold checks the manifests against the program and the Dockerfile.
func manifestsHold(s *shell, p *program) {
	t, c := s.t, kubernetes(s.t)
	if !slices.Equal(c.kinds, []string{"ConfigMap", "Service", "StatefulSet"}) {
		t.Errorf("kinds: %v", c.kinds)
	}
	if !maps.Equal(c.config, unquoted(t)) {
		t.Errorf("the ConfigMap and the page's countersign.env differ:\n%v\n%v", c.config, unquoted(t))
	}
	for name, path := range c.probes {
		if status, body := p.get(path); status != http.StatusOK {
			t.Errorf("%s probe: %s answers %d %s", name, path, status, body)
		}
	}
	dockerfile := docPage(t, "Dockerfile")
	for _, mount := range []string{"/var/lib/countersign", "/etc/countersign", "/tmp"} {
		if !slices.Contains(c.mounts, mount) {
			t.Errorf("%s is not mounted", mount)
		}
	}
	if !strings.Contains(dockerfile, "VOLUME /var/lib/countersign") {
		t.Error("the Dockerfile has another volume")
	}
}

// unquoted is the page's countersign.env as it stands.
func unquoted(t *testing.T) map[string]string {
	vars := map[string]string{}
	for line := range strings.Lines(docBlocks(t, "docs/operate.md", "env")[0]) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(line, "#") {
			vars[name] = value
		}
	}
	return vars
}

// docSection is what stands between the page's markers.
func docSection(t *testing.T, page, name string) string {
	t.Helper()
	_, rest, ok := strings.Cut(docPage(t, page), "<!-- "+name+" -->\n")
	section, _, end := strings.Cut(rest, "<!-- /"+name+" -->")
	if !ok || !end {
		t.Fatalf("%s has no section %s", page, name)
	}
	return strings.TrimSpace(section)
}

func TestTheOperatorsPageListsEveryVariable(t *testing.T) {
	var want strings.Builder
	want.WriteString("| variable | default | |\n|---|---|---|\n")
	for _, f := range configFields() {
		def := f.def
		if f.required {
			def = "required"
		}
		help := f.help
		if f.secret {
			help += " (*file*)"
		}
		fmt.Fprintf(&want, "| `%s` | %s | %s |\n", f.name, def, strings.NewReplacer("|", `\|`, "[", `\[`, "<", `\<`).Replace(help))
	}
	if got := docSection(t, "docs/operate.md", "variables"); got != strings.TrimSpace(want.String()) {
		t.Errorf("between <!-- variables --> and <!-- /variables --> docs/operate.md should say:\n%s", want.String())
	}
}

// vaults are variables that Vault's own client reads.
var vaults = []string{"VAULT_CACERT", "VAULT_NAMESPACE"}

func TestThePagesNameVariablesThatExist(t *testing.T) {
	known := map[string]bool{}
	for _, f := range configFields() {
		known[f.name] = true
		known[f.name+"_FILE"] = f.secret
	}
	for _, v := range vaults {
		known[v] = true
	}
	names := []string{"README.md", "docs/policy.md", "docs/operate.md", "docs/credentials.md", "docs/approvals.md", "docs/architecture.md", "docs/protocol.md"}
	deploy, err := filepath.Glob("../../deploy/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range deploy {
		names = append(names, "deploy/"+filepath.Base(d))
	}
	for _, name := range names {
		for _, v := range regexp.MustCompile(`\b(?:COUNTERSIGN|SLACK|VAULT)_[A-Z0-9_]*[A-Z0-9]\b`).FindAllString(docPage(t, name), -1) {
			if !known[v] {
				t.Errorf("%s names %s, which the program does not read", name, v)
			}
		}
	}
}

var metricName = regexp.MustCompile(`\bcountersign_[a-z_]+[a-z]\b`)

// metricsAreDocumented holds the page against a running program, in both directions.
func metricsAreDocumented(t *testing.T, p *program) {
	t.Helper()
	_, body := p.get("/metrics")
	var real []string
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (countersign_\w+)`).FindAllStringSubmatch(body, -1) {
		real = append(real, m[1])
	}
	section := docSection(t, "docs/operate.md", "metrics")
	for _, name := range real {
		if !strings.Contains(section, "`"+name+"`") {
			t.Errorf("docs/operate.md does not list the metric %s", name)
		}
	}
	// A family with labels shows from its first event on, those of witnesses and
	// neighbours where there are any: their names stand in the source.
	defined := docPage(t, "enforcer/metrics.go") + docPage(t, "cmd/countersign/outside.go")
	for _, name := range metricName.FindAllString(docPage(t, "docs/operate.md"), -1) {
		if !slices.Contains(real, name) && !strings.Contains(defined, `"`+name+`"`) {
			t.Errorf("docs/operate.md names the metric %s, which the program does not have", name)
		}
	}
}

// The page says that check runs are not sent: this fails once they are.
func TestTheOperatorsPageIsRightAboutCheckRuns(t *testing.T) {
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	sent := false
	for _, name := range sources {
		sent = sent || !strings.HasSuffix(name, "_test.go") && strings.Contains(docPage(t, "cmd/countersign/"+name), "bot.NewChecks(")
	}
	if said := !strings.Contains(docPage(t, "docs/operate.md"), "not sent yet"); said != sent {
		t.Errorf("check runs are sent: %v; docs/operate.md says so: %v", sent, said)
	}
}
