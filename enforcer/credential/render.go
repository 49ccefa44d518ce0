package credential

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
)

// Render fills a template with the secret's fields:
//
//	{{field}}       as it is
//	{{field|url}}   percent-encoded, for any part of a URL
//	{{field|json}}  as a JSON string, quotes included
//	{{basic a b}}   "Basic " and base64 of a:b (RFC 7617 section 2)
//
// A field that the secret does not have is an error. What an encoding makes
// unrecognisable is added to the mask before Render returns.
func (l *Lease) Render(tmpl string) (string, error) {
	e := l.e
	e.rendering.Lock()
	defer e.rendering.Unlock()
	if out, ok := e.rendered[tmpl]; ok {
		return out, nil
	}
	var out strings.Builder
	for rest := tmpl; rest != ""; {
		before, after, found := strings.Cut(rest, "{{")
		out.WriteString(before)
		if !found {
			break
		}
		action, next, closed := strings.Cut(after, "}}")
		if !closed {
			return "", fmt.Errorf("credential %s: template: {{ without }}", l.Name)
		}
		value, err := l.action(strings.TrimSpace(action))
		if err != nil {
			return "", err
		}
		out.WriteString(value)
		rest = next
	}
	if e.rendered == nil {
		e.rendered = map[string]string{}
	}
	e.rendered[tmpl] = out.String()
	return out.String(), nil
}

func (l *Lease) action(action string) (string, error) {
	if words := strings.Fields(action); len(words) == 3 && words[0] == "basic" {
		user, err := l.field(words[1])
		if err != nil {
			return "", err
		}
		if strings.Contains(user, ":") {
			return "", fmt.Errorf("credential %s: template: %s holds a colon, which basic authentication cannot carry", l.Name, words[1])
		}
		password, err := l.field(words[2])
		if err != nil {
			return "", err
		}
		pair := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
		if err := l.m.mask(l.e, pair); err != nil {
			return "", fmt.Errorf("credential %s: template: basic: %w", l.Name, err)
		}
		return "Basic " + pair, nil
	}
	name, encoding, encoded := strings.Cut(action, "|")
	value, err := l.field(strings.TrimSpace(name))
	if err != nil {
		return "", err
	}
	if !encoded {
		return value, nil
	}
	switch strings.TrimSpace(encoding) {
	case "url":
		// QueryEscape escapes all that any part of a URL needs escaped; only
		// its + for a space is particular to queries.
		return strings.ReplaceAll(url.QueryEscape(value), "+", "%20"), nil
	case "json":
		quoted, err := json.Marshal(value)
		if err != nil {
			return "", fmt.Errorf("credential %s: template: %w", l.Name, err)
		}
		return string(quoted), nil
	}
	return "", fmt.Errorf("credential %s: template: unknown encoding in {{%s}}: url or json", l.Name, action)
}

func (l *Lease) field(name string) (string, error) {
	value, ok := l.e.fields[name]
	if !ok {
		return "", fmt.Errorf("credential %s: template: the secret has no field %q", l.Name, name)
	}
	return value, nil
}
