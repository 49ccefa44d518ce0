package mask

import (
	"encoding/json"
	"strings"
	"testing"
)

// textOf is a text under field rules, as an agent would read it.
func textOf(t *testing.T, m *Mask, text string) (string, Report) {
	t.Helper()
	out, r := answer(t, m, result("null", text))
	var got struct {
		Result struct{ Content []struct{ Text string } }
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	return got.Result.Content[0].Text, r
}

func TestTables(t *testing.T) {
	m := fieldMask(t, FieldRule{ID: "c", Columns: []string{"email", "*_hash"}, Action: Redact})
	for name, c := range map[string]struct{ in, want string }{
		"markdown": {
			"Two rows:\n\n| id | **Email** | n |\n|---|:---:|---|\n| 1 | a@example.com | x |\n| 2 |  | y |\n\nThat | is all a@b.",
			"Two rows:\n\n| id | **Email** | n |\n|---|:---:|---|\n| 1 | [masked: c] | x |\n| 2 |  | y |\n\nThat | is all a@b.",
		},
		"a bar in a value": {
			"| email | n |\n|--|--|\n| a\\|b@example.com | 1 |\n| a|b@example.com | 1 |\n",
			"| email | n |\n|--|--|\n| [masked: c] | 1 |\n| [masked: c]|[masked: c] | [masked: c] |\n",
		},
		"psql": {
			" id |     email     \n----+---------------\n  1 | a@example.com \n  2 | b@example.com\r\n(2 rows)\n",
			" id |     email     \n----+---------------\n  1 | [masked: c] \n  2 | [masked: c]\r\n(2 rows)\n",
		},
		"mysql": {
			"+----+---------+\n| id | pw_hash |\n+----+---------+\n|  1 | abc     |\n+----+---------+\n1 row",
			"+----+---------+\n| id | pw_hash |\n+----+---------+\n|  1 | [masked: c]     |\n+----+---------+\n1 row",
		},
		"csv": {
			"id,email,name\n1,a@example.com,\"A, B\"\n2,\"b \"\"x\"\" @example.com\",C\n3,,D\n",
			"id,email,name\n1,[masked: c],\"A, B\"\n2,\"[masked: c]\",C\n3,,D\n",
		},
		"tsv":                  {"id\temail\n1\ta@example.com\n", "id\temail\n1\t[masked: c]\n"},
		"csv of a spreadsheet": {"\ufeffemail;id\r\na@example.com;1\r\n", "\ufeffemail;id\r\n[masked: c];1\r\n"},
		"bars":                 {"id|email\n1|a@example.com\n", "id|email\n1|[masked: c]\n"},
		"csv with a stray quote": {
			"id,email,n\n1,a@example.com,5\" disk\n",
			"id,email,n\n1,[masked: c],5\" disk\n",
		},
		"one column of csv":  {"email\na@example.com\n\"b@example.com\"\n", "email\n[masked: c]\n[masked: c]\n"},
		"one column of psql": {"     email     \n---------------\n a@example.com\n b c\n(2 rows)\n\nmore", "     email     \n---------------\n [masked: c]\n [masked: c]\n(2 rows)\n\nmore"},
		"a heading":          {"Results\n-------\nemail us\n", "Results\n-------\nemail us\n"},
		"prose":              {"email\n\nis old\n", "email\n\nis old\n"},
		"lines of JSON":      {"{\"email\":\"a@example.com\"}\n{\"email\":null}\n", "{\"email\":\"[masked: c]\"}\n{\"email\":null}\n"},
		"the end of a line in a value": {
			"| id | n | email |\n|---|---|---|\n| 1 | a\nand\nb | b@example.com |\n| 2 | c | c@example.com |\nThat is all.",
			"| id | n | email |\n|---|---|---|\n| [masked: c] | [masked: c]\n[masked: c]\n[masked: c] | [masked: c] |\n| 2 | c | [masked: c] |\nThat is all.",
		},
		"not quite csv":      {"id,email\n1,a@example.com\nand so on, and so on, and so on\n", "id,email\n1,a@example.com\nand so on, and so on, and so on\n"},
		"no such column":     {"| id | mail |\n|--|--|\n| 1 | a@example.com |\n", "| id | mail |\n|--|--|\n| 1 | a@example.com |\n"},
		"a table, and JSON":  {"| email | n |\n|--|--|\n| {\"email\":\"x\"} | 1 |\n\n[{\"email\":\"a@example.com\"}]", "| email | n |\n|--|--|\n| [masked: c] | 1 |\n\n[{\"email\":\"[masked: c]\"}]"},
		"a rule without any": {"----\nemail | x\n", "----\nemail | x\n"},
	} {
		if got, _ := textOf(t, m, c.in); got != c.want {
			t.Errorf("%s:\n%q\nwant\n%q", name, got, c.want)
		}
	}
}

// What looks like JSON and cannot be read is masked by its names all the same.
func TestLooseNames(t *testing.T) {
	m := fieldMask(t, FieldRule{ID: "k", Keys: []string{"email", "born", "contact"}, Action: Redact})
	for name, c := range map[string]struct{ in, want string }{
		"cut off":           {`[{"email":"a@example.com"},{"n":1,"email":"b@exam`, `[{"email":"[masked: k]"},{"n":1,"email":"[masked: k]`},
		"a comma too many":  {`{"email": "a@example.com", "n": 1,}`, `{"email": "[masked: k]", "n": 1,}`},
		"python":            {`[{'id': 1, 'email': 'it\'s a@example.com', 'n': None}, {"email": "it's"}]`, `[{'id': 1, 'email': '[masked: k]', 'n': None}, {"email": "[masked: k]"}]`},
		"python's objects":  {`{'born': datetime.date(1990, 1, 2), 'email': None, 'x': True}`, `{'born': [masked: k], 'email': None, 'x': True}`},
		"an object in them": {`{'a': x, "contact": {"phone":"12"}}`, `{'a': x, "contact": {"phone":"[masked: k]"}}`},
		"prose":             {`the "email": is what you type, don't: "n"`, `the "email": [masked: k] what you type, don't: "n"`},
		"other names":       {`{'mail': 'a@example.com', "e mail": 'b',}`, `{'mail': 'a@example.com', "e mail": 'b',}`},
	} {
		if got, _ := textOf(t, m, c.in); got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, c.want)
		}
	}
	m = fieldMask(t, FieldRule{ID: "stop", Keys: []string{"email"}, Action: Block, Reason: "no"})
	for _, text := range []string{`{'email': 'x'}`, "| email |\n|---|\n| x |"} {
		m.ConfigureFields([]FieldRule{{ID: "stop", Servers: []string{"*"}, Tools: []string{"*"}, Keys: []string{"email"}, Columns: []string{"email"}, Action: Block, Reason: "no"}}, nil)
		if _, _, err := m.Answer([]byte(result("null", text)), Site{}); err == nil {
			t.Errorf("%s passes", text)
		}
	}
}

func FuzzFieldText(f *testing.F) {
	for _, s := range []string{"| mail | x |\n|---|---|\n| a | b |", "id,mail\n1,\"a\"\"b\"\n", `{'mail': 'x', "mail": {"a":1},}`, "a\tmail\n1\t2", `"mail":`, "\\|mail|\n--|\n\\"} {
		f.Add(s)
	}
	m := New(Options{})
	m.ConfigureFields([]FieldRule{{ID: "r", Servers: []string{"*"}, Tools: []string{"*"}, Keys: []string{"mail"}, Columns: []string{"mail"}, Action: Partial}}, nil)
	f.Fuzz(func(t *testing.T, text string) {
		quoted, err := json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		in := `{"result":{"content":[{"text":` + string(quoted) + `}]}}`
		out, r, err := m.Answer([]byte(in), Site{})
		if err == nil && (!json.Valid(out) || !r.Masked() && string(out) != in) {
			t.Fatalf("%q became %s", text, out)
		}
		if err != nil && strings.Contains(err.Error(), "internal") {
			t.Fatalf("%q: %v", text, err)
		}
	})
}
