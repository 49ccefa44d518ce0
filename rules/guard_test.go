package rules

import (
	"strings"
	"testing"
)

func TestGuard(t *testing.T) {
	env, err := newEnv()
	if err != nil {
		t.Fatal(err)
	}
	for cond, want := range map[string]string{ // what is reported, or nothing
		`args.a == 1`:                                                  "args.a",
		`args["a"] == 1`:                                               "args.a",
		`.args.a == 1`:                                                 "args.a",
		`has(args.a) && args.a == 1`:                                   "",
		`args.a == 1 && has(args.a)`:                                   "",
		`has(args.a) && args["a"] == 1`:                                "",
		`"a" in args && args.a == 1`:                                   "",
		`has(args.a) || args.a == 1`:                                   "args.a",
		`!has(args.a) || args.a == 1`:                                  "",
		`!(has(args.a)) && args.a == 1`:                                "args.a",
		`!(!has(args.a) || args.a != 1)`:                               "",
		`!(has(args.a) && args.a == 1)`:                                "",
		`has(args.a) ? args.a == 1 : false`:                            "",
		`has(args.a) ? true : args.a == 1`:                             "args.a",
		`!has(args.a) ? false : args.a == 1`:                           "",
		`has(args.b) && args.a == 1`:                                   "args.a",
		`has(args.a) && has(args.b) && args.a == args.b`:               "",
		`(has(args.a) || has(args.b)) && args.a == 1`:                  "args.a",
		`(has(args.a) && client == "x" || has(args.a)) && args.a == 1`: "",
		`has(args.a.b)`:                                                "args.a",
		`has(args.a) && has(args.a.b) && args.a.b == 1`:                "",
		`has(args.a) && args.a.b == 1`:                                 "args.a.b",
		`has(args.a) && "b" in args.a && args.a.b == 1`:                "",
		`has(args.a) && args.a.exists(x, x == args.b)`:                 "args.b",
		`has(args.a) && args.a.exists(x, has(args.b) && x == args.b)`:  "",
		`["x"].exists(args, args == "a")`:                              "",
		`args.exists(k, k == "a")`:                                     "",
		`args.exists(k, args[k] == 1)`:                                 "",
		`sql(args.sql).parsed`:                                         "args.sql",
		`has(args.sql) && sql(args.sql).reads.exists(t, t in ["x"])`:   "",
		`shell(args.cmd).dynamic`:                                      "args.cmd",
		`subject.claims.team == "x"`:                                   "subject.claims.team",
		`has(subject.claims.team) && subject.claims.team == "x"`:       "",
		`size(args) == 0`:                                              "",
		`{"a": args.a}.a == 1`:                                         "args.a",
		`[args.a] == [1]`:                                              "args.a",
	} {
		_, issues := compile(env, conditionText{when: cond})
		var got []string
		for _, is := range issues {
			got = append(got, is.msg)
		}
		said := strings.Join(got, "\n")
		switch {
		case want == "" && said != "":
			t.Errorf("%s: %s", cond, said)
		case want != "" && (len(got) != 1 || !strings.HasPrefix(said, "reads "+want+",")):
			t.Errorf("%s: %q, want that it reads %s", cond, said, want)
		}
	}
}
