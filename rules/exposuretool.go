package rules

import (
	"slices"
	"strings"
	"unicode"
)

// What names tell: of a tool, of a kind of thing, of an operation, of a place.

var (
	writingTools = setOf("write create delete remove list ls mkdir stat exists touch append save put glob search")
	keepingTools = setOf("write create edit update append save put push commit insert replace")
	readingTools = setOf("read get cat open copy move rename download upload send view show fetch load export edit print tail head")
)

// writes tells whether the tool keeps texts rather than runs them.
func (x *exposer) writes() bool {
	return hasAny(x.tool, keepingTools) && !hasAny(x.tool, sqlTools) && !hasAny(x.tool, shellTools)
}

// place looks at a text that may be a path, an address, or an operation of an
// API, as a whole.
func (x *exposer) place(s, at string) {
	if strings.ContainsAny(s, "\n\r") {
		if web := webURL(s); web != s {
			x.add(at, address(web)...)
		}
		return
	}
	if len(s) > 4096 { // no path, but an URL may go on
		x.add(at, address(s)...)
		return
	}
	spaced := strings.ContainsAny(s, " \t")
	if !hasAny(x.tool, writingTools) || hasAny(x.tool, readingTools) {
		if !spaced || strings.HasPrefix(s, "/") || strings.HasPrefix(s, "~") || strings.Contains(s, `:\`) || strings.HasPrefix(s, "file:") {
			found := file(strings.TrimPrefix(unpercent(strings.TrimPrefix(s, "file://")), "localhost"))
			x.add(at, found...)
		}
	}
	if spaced {
		return
	}
	x.add(at, address(s)...)
	x.add(at, apiPath(s)...)
	if len(s) <= 64 {
		letters := strings.Map(func(r rune) rune {
			if unicode.IsLetter(r) {
				return unicode.ToLower(r)
			}
			return -1
		}, s)
		for _, e := range callEntries[letters] {
			x.add(at, e)
		}
	}
}

var callEntries = func() map[string][]*exposure {
	m := map[string][]*exposure{}
	for _, e := range catalogue {
		for _, c := range e.calls {
			m[c] = append(m[c], e)
		}
	}
	return m
}()

var (
	kubeKeys    = setOf("kind kinds resource resources resourcetype resourcekind resourcetypes type object objects gvk gvr")
	kubeContext = setOf("k8s kubernetes kube kubectl kubeconfig oc openshift namespace namespaces apiversion labelselector pods pod cluster helm")
	kubeWrites  = setOf("create apply delete patch remove label annotate scale rollout")
	kubeReads   = setOf("get list describe read show watch view fetch edit")
	kubeTexts   = strings.Split(kubeSecrets, "|")
)

// kubernetes looks at arguments that name a kind of thing in a cluster.
func (x *exposer) kubernetes(m map[string]any, at string) {
	if hasAny(x.tool, kubeWrites) && !hasAny(x.tool, kubeReads) {
		return
	}
	context := hasAny(x.tool, kubeContext) || hasAny(nameWords(x.facts.req.Server), kubeContext)
	for k := range m {
		context = context || hasAny(nameWords(k), kubeContext) || kubeContext[strings.ToLower(k)]
	}
	for k, v := range m {
		key := strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(k))
		if !kubeKeys[key] || !context && key != "kind" {
			continue
		}
		values := []any{v}
		if list, ok := v.([]any); ok {
			values = list
		}
		for _, v := range values {
			s, ok := v.(string)
			if s = strings.ToLower(strings.TrimSpace(s)); !ok {
				continue
			}
			s = s[strings.LastIndexByte(s, ' ')+1:]
			if globs(kubeTexts, s) || strings.HasSuffix(s, "/secrets") || strings.HasSuffix(s, "/secret") {
				x.add(within(at, k), byID[idKubeSecret])
			}
			if s == "serviceaccounts/token" || s == "tokenrequest" {
				x.add(within(at, k), byID["service-account-token"])
			}
		}
	}
}

var (
	secretNouns = setOf("secret secrets credential credentials password passwords passphrase keychain vault")
	secretVerbs = setOf("get read fetch access reveal show describe retrieve value view decrypt export dump unwrap unseal issue generate")
	otherVerbs  = setOf("create delete list set update put rotate scan check validate store write add remove rename")
)

// toolNamed tells whether the tool is one that reads secrets, as its name
// says.
func (x *exposer) toolNamed() {
	words := x.tool
	decrypts := hasAny(words, setOf("parameter parameters")) && slices.ContainsFunc([]string{"withDecryption", "WithDecryption", "with_decryption", "decrypt"}, func(k string) bool { return x.facts.args[k] == true })
	if hasAny(words, secretNouns) && hasAny(words, secretVerbs) && !hasAny(words, otherVerbs) || decrypts {
		x.add("tool", byID[idVaultTool])
	}
}

var relationKeys = setOf("table tables relation relations view object")

// relations looks at arguments that name a relation of a database.
func (x *exposer) relations(m map[string]any, at string) {
	schema := ""
	for _, k := range []string{"schema", "schema_name", "schemaName", "database"} {
		if s, ok := m[k].(string); ok {
			schema = strings.ToLower(s) + "."
			break
		}
	}
	for k, v := range m {
		if !hasAny(nameWords(k), relationKeys) {
			continue
		}
		list, ok := v.([]any)
		if !ok {
			list = []any{v}
		}
		if len(list) > 1000 {
			x.add(within(at, k), byID[idTooMuch])
			continue
		}
		for _, v := range list {
			s, ok := v.(string)
			if !ok || len(s) > 256 {
				continue
			}
			name := plainWords(strings.ToLower(s))
			_, last, _ := strings.Cut(name, ".")
			for i := range sqlCatalogue {
				if e := &sqlCatalogue[i]; named(e.relations, []string{name, schema + name, last}) {
					x.add(within(at, k), e)
				}
			}
		}
	}
}
