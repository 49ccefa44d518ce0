package rules

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// How conditions see the SQL facts: as two object types with known fields, so
// that a misspelt field is a problem at load.

var (
	factsType     = types.NewObjectType("sql.Facts")
	statementType = types.NewObjectType("sql.Statement")
)

// A sqlVal is a value of one of these types, or of those of shell() and
// exposures(): *sqlFacts, *statement, *shellFacts and so on.
type sqlVal struct {
	of    any
	typed *types.Type
}

func (v sqlVal) Type() ref.Type { return v.typed }
func (v sqlVal) Value() any     { return v.of }
func (v sqlVal) Equal(o ref.Val) ref.Val {
	return types.Bool(v.of == o.Value())
}
func (v sqlVal) ConvertToNative(t reflect.Type) (any, error) {
	return nil, fmt.Errorf("%s has no form as %s", v.typed, t)
}
func (v sqlVal) ConvertToType(t ref.Type) ref.Val {
	if t == types.TypeType {
		return v.typed
	}
	return types.NewErr("%s cannot be converted to %s", v.typed, t)
}

type sqlField struct {
	name string
	typ  *types.Type
	get  func(any) (any, error)
}

// fact makes a field of sql.Facts; one that is a list is an error of the
// condition where the text could not be read.
func fact(name string, typ *types.Type, get func(*sqlFacts) any) sqlField {
	return sqlField{name, typ, func(of any) (any, error) {
		f, ok := of.(*sqlFacts)
		if !ok {
			return nil, errors.New("not the facts of an SQL text")
		}
		if !f.parsed && typ.Kind() == types.ListKind {
			return nil, fmt.Errorf("the SQL could not be read: %s", f.err)
		}
		return get(f), nil
	}}
}

func part(name string, typ *types.Type, get func(*statement) any) sqlField {
	return sqlField{name, typ, func(of any) (any, error) {
		s, ok := of.(*statement)
		if !ok {
			return nil, errors.New("not an SQL statement")
		}
		return get(s), nil
	}}
}

var texts = cel.ListType(cel.StringType)

func list(ss []string) ref.Val {
	return types.NewStringList(types.DefaultTypeAdapter, ss)
}

// celFields are the fields of all object types that conditions see.
var celFields = func() map[string][]sqlField {
	all := map[string][]sqlField{}
	for _, fields := range []map[string][]sqlField{sqlFields, shellFields, exposureFields} {
		maps.Copy(all, fields)
	}
	return all
}()

var sqlFields = map[string][]sqlField{
	"sql.Facts": {
		fact("parsed", cel.BoolType, func(f *sqlFacts) any { return f.parsed }),
		fact("error", cel.StringType, func(f *sqlFacts) any { return f.err }),
		fact("statements", cel.ListType(statementType), func(f *sqlFacts) any {
			vals := make([]ref.Val, len(f.statements))
			for i, s := range f.statements {
				vals[i] = sqlVal{s, statementType}
			}
			return types.NewRefValList(types.DefaultTypeAdapter, vals)
		}),
		fact("reads", texts, func(f *sqlFacts) any { return list(f.reads) }),
		fact("writes", texts, func(f *sqlFacts) any { return list(f.writes) }),
		fact("functions", texts, func(f *sqlFacts) any { return list(f.functions) }),
		fact("multiple", cel.BoolType, func(f *sqlFacts) any { return f.multiple }),
		fact("writing", cel.BoolType, func(f *sqlFacts) any { return f.writing }),
		fact("dynamic", cel.BoolType, func(f *sqlFacts) any { return f.dynamic }),
		fact("files", cel.BoolType, func(f *sqlFacts) any { return f.files }),
		fact("portable", cel.BoolType, func(f *sqlFacts) any { return f.portable }),
	},
	"sql.Statement": {
		part("kind", cel.StringType, func(s *statement) any { return s.kind }),
		part("reads", texts, func(s *statement) any { return list(s.reads) }),
		part("writes", texts, func(s *statement) any { return list(s.writes) }),
		part("functions", texts, func(s *statement) any { return list(s.functions) }),
		part("where", cel.BoolType, func(s *statement) any { return s.where }),
		part("returning", cel.BoolType, func(s *statement) any { return s.returning }),
		part("writing", cel.BoolType, func(s *statement) any { return s.writing }),
		part("dynamic", cel.BoolType, func(s *statement) any { return s.dynamic }),
		part("files", cel.BoolType, func(s *statement) any { return s.files }),
		part("nested", cel.BoolType, func(s *statement) any { return s.nested }),
	},
}

// celTypes is CEL's own registry and these types.
type celTypes struct{ *types.Registry }

func (t celTypes) FindStructType(name string) (*types.Type, bool) {
	if _, ok := celFields[name]; ok {
		return types.NewTypeTypeWithParam(types.NewObjectType(name)), true
	}
	return t.Registry.FindStructType(name)
}

func (t celTypes) FindStructFieldNames(name string) ([]string, bool) {
	fs, ok := celFields[name]
	if !ok {
		return t.Registry.FindStructFieldNames(name)
	}
	var names []string
	for _, f := range fs {
		names = append(names, f.name)
	}
	return names, true
}

func (t celTypes) FindStructFieldType(name, field string) (*types.FieldType, bool) {
	fs, ok := celFields[name]
	if !ok {
		return t.Registry.FindStructFieldType(name, field)
	}
	i := slices.IndexFunc(fs, func(f sqlField) bool { return f.name == field })
	if i < 0 {
		return nil, false
	}
	return &types.FieldType{Type: fs[i].typ, IsSet: func(any) bool { return true }, GetFrom: fs[i].get}, true
}

// NewValue refuses to make facts: only sql() and the like do.
func (t celTypes) NewValue(name string, fields map[string]ref.Val) ref.Val {
	if _, ok := celFields[name]; ok {
		return types.NewErr("%s cannot be made up by a condition", name)
	}
	return t.Registry.NewValue(name, fields)
}
