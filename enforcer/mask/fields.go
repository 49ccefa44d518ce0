package mask

import "bytes"

// What the structure of JSON itself says is secret: members by their names, as
// keyed values in text, and the place of a value beside others.

// mark says what the members of an object make of each other.
type mark struct {
	sensitive bool // "sensitive": true: Terraform's outputs; its value is secret
	manifest  bool // "kind": "Secret": Kubernetes; its data is secret
	key       bool // "kty": a JWK (RFC 7517); its private members are secret
	named     int  // the detector that "name": "DB_PASSWORD" makes of its value, from 1
	under     int  // the detector of all that stands under this node, from 1
}

// The detectors of members.
var (
	sensitiveField = numberOf("sensitive-field")
	secretManifest = numberOf("kubernetes-secret")
	jwkMember      = numberOf("jwk")
	dockerAuth     = numberOf("docker-auth")
)

func numberOf(name string) int {
	for i := range detectors {
		if detectors[i].name == name {
			return i
		}
	}
	panic("mask: no detector " + name)
}

// fields appends what the structure of d tells.
func (s *search) fields(d *document, spans []span) []span {
	if s.knownOnly || len(d.nodes) == 0 {
		return spans
	}
	marks := d.mark()
	for i := range d.tokens {
		t := &d.tokens[i]
		if t.kind != value || t.in < 0 || t.size == 0 || t.rule != nil {
			continue
		}
		n := d.secretBy(t, marks)
		if n < 0 || s.rules.detectors.off[n] {
			continue
		}
		c := &s.rules.detectors.causes[n]
		if s.allows(c, d.text(i), func() string { return s.placeOf(d, i) }) {
			continue
		}
		if text := d.text(i); !bytes.HasPrefix(text, []byte("[masked")) {
			spans = append(spans, span{token: i, end: t.size, with: c.text, cause: c})
		}
	}
	return spans
}

// secretBy returns the detector that knows a string by where it stands, or -1.
func (d *document) secretBy(t *token, marks []mark) int {
	if len(marks) > 0 && marks[t.in].under > 0 {
		return marks[t.in].under - 1
	}
	if t.name < 0 {
		return -1
	}
	name := d.text(int(t.name))
	text := d.values.text[t.at : t.at+t.size]
	if len(marks) > 0 {
		switch m := &marks[t.in]; {
		case m.sensitive && string(name) == "value":
			return sensitiveField
		case m.manifest && isData(name):
			return secretManifest
		case m.key && isPrivate(name):
			return jwkMember
		case m.named > 0 && bytes.EqualFold(name, []byte("value")):
			if isLiteral(detectors[m.named-1].keyed, text) {
				return m.named - 1
			}
			return -1
		}
	}
	if string(name) == "auth" && isUserPassword(text) {
		return dockerAuth
	}
	n := keyOf(name)
	if n >= 0 && isLiteral(detectors[n].keyed, text) && !bytes.EqualFold(name, text) && !isOther(name, text) {
		return n
	}
	return -1
}

func isData(name []byte) bool { return string(name) == "data" || string(name) == "stringData" }

// isPrivate tells the private members of a JWK: RFC 7518 §6.
func isPrivate(name []byte) bool {
	switch string(name) {
	case "d", "k", "p", "q", "dp", "dq", "qi":
		return true
	}
	return false
}

// mark reads the members that say something of others; nil if there are none.
// Nodes stand in front of what they hold, so one pass goes from the top down.
func (d *document) mark() []mark {
	var marks []mark
	at := func(node int32) *mark {
		if marks == nil {
			marks = make([]mark, len(d.nodes))
		}
		return &marks[node]
	}
	for _, node := range d.sensitive {
		at(node).sensitive = true
	}
	for i := range d.tokens {
		t := &d.tokens[i]
		if t.kind != value || t.name < 0 || t.in < 0 {
			continue
		}
		switch name := d.text(int(t.name)); string(name) {
		case "kind":
			if string(d.text(i)) == "Secret" {
				at(t.in).manifest = true
			}
		case "kty":
			at(t.in).key = true
		case "name", "key", "Name", "Key":
			if n := keyOf(d.text(i)); n >= 0 {
				at(t.in).named = n + 1
			}
		}
	}
	for i := range marks {
		n := d.nodes[i]
		if n.up < 0 {
			continue
		}
		up := marks[n.up]
		switch {
		case up.under > 0:
			marks[i].under = up.under
		case n.name < 0:
		case up.sensitive && string(d.text(int(n.name))) == "value":
			marks[i].under = sensitiveField + 1
		case up.manifest && isData(d.text(int(n.name))):
			marks[i].under = secretManifest + 1
		}
	}
	return marks
}
