package enforcer

import (
	"reflect"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Schemas that refer to each other can be applied to one value in exponentially
// many ways. So the applications are counted first, each schema at each value
// once, without applying any: never fewer than there will be.

// cost counts them.
type cost struct {
	seen map[pair]int // -1: being counted
}

// pair is a schema and a value: an object or array by its address.
type pair struct {
	schema *jsonschema.Schema
	value  any
}

// bounded tells whether a check takes at most maxEvaluations.
func (c *cost) bounded(s *jsonschema.Schema, value any) bool {
	return c.count(s, value) <= maxEvaluations
}

func addressOf(value any) any {
	switch value.(type) {
	case map[string]any, []any:
		v := reflect.ValueOf(value)
		return [2]uintptr{v.Pointer(), uintptr(v.Len())}
	}
	return nil // scalars cost alike
}

func (c *cost) count(s *jsonschema.Schema, value any) int {
	if s == nil {
		return 0
	}
	at := pair{s, addressOf(value)}
	switch n, ok := c.seen[at]; {
	case n < 0: // a circle, which the check ends
		return 1
	case ok:
		return n
	case len(c.seen) > maxEvaluations:
		return maxEvaluations + 1
	}
	c.seen[at] = -1
	n := 1
	add := func(s *jsonschema.Schema, value any) {
		if n <= maxEvaluations {
			n += c.count(s, value)
		}
	}
	for _, list := range [][]*jsonschema.Schema{s.AllOf, s.AnyOf, s.OneOf, {s.Ref, s.RecursiveRef, s.Not, s.If, s.Then, s.Else}} {
		for _, one := range list {
			add(one, value)
		}
	}
	if s.DynamicRef != nil {
		n = maxEvaluations + 1 // where it leads depends on the way
	}
	for _, one := range s.DependentSchemas {
		add(one, value)
	}
	for _, one := range s.Dependencies {
		if one, ok := one.(*jsonschema.Schema); ok {
			add(one, value)
		}
	}
	switch v := value.(type) {
	case map[string]any:
		for name, member := range v {
			add(s.PropertyNames, name)
			add(s.Properties[name], member)
			for _, one := range s.PatternProperties {
				add(one, member)
			}
			if one, ok := s.AdditionalProperties.(*jsonschema.Schema); ok {
				add(one, member)
			}
			add(s.UnevaluatedProperties, member)
		}
	case []any:
		for i, element := range v {
			add(s.Contains, element)
			add(s.Items2020, element)
			add(s.UnevaluatedItems, element)
			if i < len(s.PrefixItems) {
				add(s.PrefixItems[i], element)
			}
			switch items := s.Items.(type) {
			case *jsonschema.Schema:
				add(items, element)
			case []*jsonschema.Schema:
				if i < len(items) {
					add(items[i], element)
				}
			}
			if one, ok := s.AdditionalItems.(*jsonschema.Schema); ok {
				add(one, element)
			}
		}
	}
	c.seen[at] = n
	return n
}
