package rules

import pg "github.com/pganalyze/pg_query_go/v6"

// depth is an upper bound on how deep the parse tree of the tokens can be:
// each token may add a level, except where that cannot be. Statements stand
// side by side, and so do the items of a comma list that are one token each
// (or one parenthesis of such items: a row of VALUES): long lists are common,
// deep trees are not.
func depth(tokens []*pg.ScanToken) int {
	type group struct {
		weight int  // of the items before the current one
		run    int  // of the current item
		nested bool // holds another group
	}
	close := func(g *group) {
		if g.run > 1 {
			g.weight += g.run + 1
		}
		g.run = 0
	}
	deepest, dotted := 0, false
	stack := []group{{}}
	for _, t := range tokens {
		top := &stack[len(stack)-1]
		switch t.GetToken() {
		case pg.Token_SQL_COMMENT, pg.Token_C_COMMENT:
			continue
		case pg.Token_ASCII_40, pg.Token_ASCII_91: // ( [
			top.nested = true
			stack = append(stack, group{})
		case pg.Token_ASCII_41, pg.Token_ASCII_93: // ) ]
			if len(stack) == 1 {
				top.run++ // one too many: the parser will say so
				break
			}
			close(top)
			cost := top.weight + 2
			if top.weight == 0 && !top.nested {
				cost = 1
			}
			stack = stack[:len(stack)-1]
			stack[len(stack)-1].run += cost
		case pg.Token_ASCII_44: // ,
			close(top)
		case pg.Token_ASCII_59: // ;
			if len(stack) == 1 {
				close(top)
				deepest = max(deepest, top.weight)
				*top = group{}
				break
			}
			top.run++
		case pg.Token_ASCII_46: // . joins the names around it
			dotted = true
			continue
		default:
			if !dotted {
				top.run++
			}
		}
		dotted = false
	}
	total := 0
	for i := range stack {
		close(&stack[i])
		total += stack[i].weight
	}
	return max(deepest, total)
}
