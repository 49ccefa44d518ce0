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
func (s *scene) writePolicy() error {
	files, err := s.stage.PolicyFiles()
	if err != nil {
		return err
	}
	for _, kind := range kinds {
		files["servers/echo-"+kind+".yaml"] = fmt.Appendf(nil, `server: echo-%[1]s
url: %[2]s/credential/%[1]s
timeout: 30s
credential: echo
credentials:
  echo:
    vault: database/creds/customers-ro
    scope: holder
    ttl: 60s
    inject: { headers: { Authorization: "{{basic username password}}" } }
`, kind, s.bases["direct"])
	}
	given := strings.Count(string(files["rules/customers.yaml"]), "- id:")
	files["rules/bench.yaml"] = []byte(benchRules(ruleCount - given))
	_, err = s.stage.Policy.Commit(files, "Rules to measure with\n", s.stage.Dana)
	return err
}

// benchRules are n rules, five of which look at the call of echo.
func benchRules(n int) string {
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
	return b.String()
}
