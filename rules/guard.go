package rules

import "cel.dev/cel-go/common/ast"

func unguarded(a *ast.AST) []issue { return nil }

// calls tells whether an expression calls the function.
func calls(a *ast.AST, function string) bool {
	found := false
	ast.PostOrderVisit(a.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		found = found || e.Kind() == ast.CallKind && e.AsCall().FunctionName() == function
	}))
	return found
}
