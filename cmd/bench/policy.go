package main

import (
	"fmt"
	"strings"
)

// ruleCount is how many rules the policy has.
const ruleCount = 1000

// writePolicy commits a policy of ruleCount rules, signed. A few of them name
// the tool that is called, the others do not apply: as in a policy of many
// servers and tools. Each server's calls carry a minted credential.
func (s *scene) writePolicy(sizes []int) error {
	files, err := s.stage.PolicyFiles()
	if err != nil {
		return err
	}
	var names []string
	for _, kind := range kinds {
		for _, size := range sizes {
			name := serverName(kind, size)
			names = append(names, name)
			files["servers/"+name+".yaml"] = fmt.Appendf(nil, `server: %[1]s
url: %[2]s/credential/%[3]s/%[4]d
timeout: 30s
credential: echo
credentials:
  echo:
    vault: database/creds/customers-ro
    scope: holder
    ttl: 60s
    inject: { headers: { Authorization: "{{basic username password}}" } }
`, name, s.bases["direct"], kind, size)
		}
	}
	given := strings.Count(string(files["rules/customers.yaml"]), "- id:")
	files["rules/bench.yaml"] = []byte(benchRules(ruleCount-given, strings.Join(names, ", ")))
	_, err = s.stage.Policy.Commit(files, "Rules to measure with\n", s.stage.Dana)
	return err
}

// serverName is what the policy calls the server of one kind of answers.
func serverName(kind string, size int) string { return fmt.Sprintf("echo-%s-%d", kind, size) }

// benchRules are n rules, five of which look at the call of echo.
func benchRules(n int, servers string) string {
	var b strings.Builder
	b.WriteString(`- id: echo-support
  server: [echo-json, echo-sse]
  tool: echo
  when: '"support" in subject.groups'
  effect: allow

- id: echo-not-shouted
  server: [echo-json, echo-sse]
  tool: echo
  when: has(args.text) && args.text.startsWith("SHOUT")
  effect: deny
  reason: Nobody shouts here

- id: echo-short
  server: [echo-json, echo-sse]
  tool: echo
  when: has(args.text) && size(args.text) > 100000
  effect: deny
  reason: That is too long

- id: echo-batch-needs-dba
  server: [echo-json, echo-sse]
  tool: echo
  when: client == "batch"
  effect: approve
  reason: Batches need a DBA
  approval: { approvers: dba, quorum: 1, expires: 15m }

- id: nobody-from-outside
  server: "*"
  tool: "*"
  when: subject.issuer.startsWith("https://outside.example")
  effect: deny
  reason: Only people of ours
`)
	for i := 5; i < n; i++ {
		fmt.Fprintf(&b, `
- id: bench-%04[1]d
  server: [echo-json, echo-sse]
  tool: tool-%04[1]d
  when: '"group-%[2]d" in subject.groups && has(args.count) && args.count < %[1]d'
  effect: allow
`, i, i%50)
	}
	return strings.ReplaceAll(b.String(), "[echo-json, echo-sse]", "["+servers+"]")
}
