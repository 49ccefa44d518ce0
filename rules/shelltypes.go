package rules

import (
	"errors"
	"fmt"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// How conditions see the facts of shell(text).

var (
	shellType   = types.NewObjectType("shell.Facts")
	commandType = types.NewObjectType("shell.Command")
)

func shellFact(name string, typ *types.Type, get func(*shellFacts) any) sqlField {
	return sqlField{name, typ, func(of any) (any, error) {
		f, ok := of.(*shellFacts)
		if !ok {
			return nil, errors.New("not the facts of a text of shell")
		}
		if !f.parsed && typ.Kind() == types.ListKind {
			return nil, fmt.Errorf("the shell text could not be read: %s", f.err)
		}
		return get(f), nil
	}}
}

func commandPart(name string, typ *types.Type, get func(*shellCommand) any) sqlField {
	return sqlField{name, typ, func(of any) (any, error) {
		c, ok := of.(*shellCommand)
		if !ok {
			return nil, errors.New("not a command of shell")
		}
		return get(c), nil
	}}
}

var shellFields = map[string][]sqlField{
	"shell.Facts": {
		shellFact("parsed", cel.BoolType, func(f *shellFacts) any { return f.parsed }),
		shellFact("error", cel.StringType, func(f *shellFacts) any { return f.err }),
		shellFact("commands", cel.ListType(commandType), func(f *shellFacts) any {
			vals := make([]ref.Val, len(f.commands))
			for i, c := range f.commands {
				vals[i] = sqlVal{c, commandType}
			}
			return types.NewRefValList(types.DefaultTypeAdapter, vals)
		}),
		shellFact("names", texts, func(f *shellFacts) any { return list(f.names) }),
		shellFact("reads", texts, func(f *shellFacts) any { return list(f.reads) }),
		shellFact("writes", texts, func(f *shellFacts) any { return list(f.writes) }),
		shellFact("multiple", cel.BoolType, func(f *shellFacts) any { return f.multiple }),
		shellFact("dynamic", cel.BoolType, func(f *shellFacts) any { return f.dynamic }),
		shellFact("pipes", cel.BoolType, func(f *shellFacts) any { return f.pipes }),
		shellFact("nested", cel.BoolType, func(f *shellFacts) any { return f.nested }),
		shellFact("heredocs", cel.BoolType, func(f *shellFacts) any { return f.heredocs }),
	},
	"shell.Command": {
		commandPart("name", cel.StringType, func(c *shellCommand) any { return c.name }),
		commandPart("args", texts, func(c *shellCommand) any { return list(texted(c.args)) }),
		commandPart("via", texts, func(c *shellCommand) any { return list(c.via) }),
		commandPart("reads", texts, func(c *shellCommand) any { return list(texted(c.reads)) }),
		commandPart("writes", texts, func(c *shellCommand) any { return list(texted(c.writes)) }),
		commandPart("piped", cel.BoolType, func(c *shellCommand) any { return c.piped }),
		commandPart("nested", cel.BoolType, func(c *shellCommand) any { return c.nested }),
		commandPart("dynamic", cel.BoolType, func(c *shellCommand) any { return c.dynamic }),
	},
}
