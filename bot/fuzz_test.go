package bot

import "testing"

func FuzzInteraction(f *testing.F) {
	f.Add([]byte(`{"type":"block_actions","team":{"id":"T"},"user":{"id":"U","team_id":"T"},"actions":[{"type":"button","action_id":"countersign_approve","value":"x"}]}`))
	f.Add([]byte(`{"type":"view_submission","team":{"id":"T"},"user":{"id":"U","team_id":"T"},"view":{"callback_id":"countersign_reason","private_metadata":"{}","state":{"values":{}}}}`))
	f.Add([]byte(`null`))
	b := New(Config{TeamID: "T"})
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := b.read(raw)
		if err == nil && (p.team == "" || p.user == "" || p.action == "") {
			t.Fatalf("%q is read as %+v", raw, p)
		}
	})
}
