package rules

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
)

const (
	ageKey = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
	sshKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOF1hNpANl/PV1DZlWSCGMHmDY4Ll2iHVGtrmMkPUT0u auditors"
)

func TestRecordSettings(t *testing.T) {
	for text, want := range map[string]Record{
		"{}":                             {Bodies: RecordDigest, Previews: true},
		"{ bodies: full }":               {Bodies: RecordFull, Previews: true},
		"{ previews: false }":            {Bodies: RecordDigest},
		"{ subjects: plain }":            {Bodies: RecordDigest, Previews: true},
		"{ subjects: pseudonym }":        {Bodies: RecordDigest, Previews: true, Pseudonym: true},
		"{ retention: 90d }":             {Bodies: RecordDigest, Previews: true, Retention: 90 * 24 * time.Hour},
		"{ retention: 36h }":             {Bodies: RecordDigest, Previews: true, Retention: 36 * time.Hour},
		"{ recipients: " + ageKey + " }": {Bodies: RecordDigest, Previews: true, Recipients: []string{ageKey}},
		`{ recipients: ["` + ageKey + `", "` + sshKey + `"] }`: {Bodies: RecordDigest, Previews: true, Recipients: []string{ageKey, sshKey}},
	} {
		p := load(t, base(), "countersign.yaml", "version: 1\nrecord: "+text+"\n")
		if got := p.Settings().Record; !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v", text, got, want)
		}
	}
	p := load(t, base(), "countersign.yaml", "version: 1\nrecord: { recipients: "+ageKey+" }\n")
	p.Settings().Record.Recipients[0] = "mine"
	if p.Settings().Record.Recipients[0] != ageKey {
		t.Error("a policy can be changed from outside")
	}
}

func TestRecordSettingsThatAreNone(t *testing.T) {
	many := strings.Repeat(`"`+sshKey+`", `, 2)
	for text, want := range map[string]string{
		"full":                                 `countersign.yaml:2:9: record must be a mapping`,
		"{ body: full }":                       `countersign.yaml:2:11: unknown field "body" in record`,
		"{ bodies: all }":                      `countersign.yaml:2:19: record.bodies "all" is not known: digest or full`,
		"{ bodies: true }":                     `countersign.yaml:2:19: record.bodies must be a text`,
		"{ previews: no way }":                 `countersign.yaml:2:21: record.previews must be true or false`,
		"{ previews: \"false\" }":              `countersign.yaml:2:21: record.previews must be true or false`,
		"{ subjects: hashed }":                 `countersign.yaml:2:21: record.subjects "hashed" is not known`,
		"{ retention: 90 }":                    `countersign.yaml:2:22: record.retention must be a text`,
		"{ retention: 0 }":                     `countersign.yaml:2:22: record.retention must be a text`,
		"{ retention: 0d }":                    `countersign.yaml:2:22: record.retention is 0d: it must lie between 1d and 36500d`,
		"{ retention: 1h }":                    `countersign.yaml:2:22: record.retention is 1h: it must lie`,
		"{ retention: -1d }":                   `countersign.yaml:2:22: record.retention must be a number of days`,
		"{ retention: 36501d }":                `must lie between 1d and 36500d`,
		"{ retention: 99999999999999999999d }": `record.retention must be a number of days`,
		"{ retention: quarter }":               `record.retention must be a number of days such as 90d, not "quarter"`,
		"{ recipients: [] }":                   `countersign.yaml:2:23: record.recipients is an empty list`,
		"{ recipients: {} }":                   `record.recipients must be a text`,
		"{ recipients: age1xyz }":              `countersign.yaml:2:23: record.recipients: malformed recipient`,
		"{ recipients: github:alice }":         `record.recipients: want an age recipient`,
		"{ recipients: \"ssh-ed25519\" }":      `record.recipients: want an age recipient`,
		"{ recipients: \"ssh-ed25519 AAAA\" }": `countersign.yaml:2:23: record.recipients: `,
		"{ recipients: [" + ageKey + ", ecdsa-sha2-nistp256 AAAA] }": `countersign.yaml:2:88: record.recipients: want an age recipient`,
		"{ recipients: [" + many + "] }":                             `record.recipients lists`,
		"{ recipients: \"" + sshKey + `\n` + sshKey + "\" }":         `one recipient is one line`,
		"{ recipients: AGE-SECRET-KEY-1QQQ }":                        `record.recipients: this is a private key`,
	} {
		_, err := try(base(), "countersign.yaml", "version: 1\nrecord: "+text+"\n")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.100s: %v, want %s", text, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "QQQ") {
			t.Errorf("the message quotes a private key: %v", err)
		}
	}
}

// A rule that matched, of any effect, says what is kept, and the narrower word
// of two wins; where none says, the setting does.
func TestWhatIsRecorded(t *testing.T) {
	rule := func(id, tool, effect, record string) string {
		text := "- { id: " + id + ", server: customers, tool: " + tool + ", effect: " + effect
		if effect == "deny" {
			text += ", reason: no"
		}
		if record != "" {
			text += ", record: " + record
		}
		return text + " }\n"
	}
	p := load(t, base(), "countersign.yaml", "version: 1\nrecord: { bodies: full }\n", "rules/record.yaml",
		rule("r-silent", "silent", "allow", "")+rule("r-digest", "both", "allow", "digest")+rule("r-full", "both", "allow", "full")+
			rule("r-denied", "denied", "allow", "full")+rule("r-deny", "denied", "deny", "digest"))
	q := load(t, base(), "rules/record.yaml", rule("r-silent", "silent", "allow", "")+rule("r-full", "full", "allow", "full")+
		"- { id: r-when, server: customers, tool: full, when: 'has(args.secret)', effect: allow, record: digest }\n")
	for i, c := range []struct {
		p                *Policy
		tool, args, want string
	}{
		{p, "silent", "{}", RecordFull}, {p, "both", "{}", RecordDigest}, {p, "denied", "{}", RecordDigest}, {p, "unknown", "{}", RecordFull},
		{q, "silent", "{}", RecordDigest}, {q, "full", "{}", RecordFull}, {q, "full", `{"secret":1}`, RecordDigest}, {q, "unknown", "{}", RecordDigest},
	} {
		if d := c.p.Decide(call(c.tool, c.args)); d.Record != c.want {
			t.Errorf("%d: %s %s: %s, want %s (%s)", i, c.tool, c.args, d.Record, c.want, d.Effect)
		}
	}
	r := call("x", "{}")
	r.Server = "nobody"
	if d := p.Decide(r); d.Record != RecordFull {
		t.Errorf("of an unknown server: %q", d.Record)
	}
	if _, err := try(base(), "rules/record.yaml", rule("r", "x", "allow", "all")); err == nil || !strings.Contains(err.Error(), `record "all" is not known: digest or full`) {
		t.Error(err)
	}
}

func TestPostQuantumRecipientsStandAlone(t *testing.T) {
	id, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	pq := id.Recipient().String()
	p := load(t, base(), "countersign.yaml", "version: 1\nrecord: { recipients: "+pq+" }\n")
	if got := p.Settings().Record.Recipients; len(got) != 1 || got[0] != pq {
		t.Errorf("%q", got)
	}
	_, err = try(base(), "countersign.yaml", "version: 1\nrecord: { recipients: ["+pq+", "+ageKey+"] }\n")
	if err == nil || !strings.Contains(err.Error(), "countersign.yaml:2:23: record.recipients mixes age1pq1") {
		t.Error(err)
	}
}
