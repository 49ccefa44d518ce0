package wire

// ParamHeaders reads from a tools/list result which arguments its tools want
// mirrored into headers: for each tool of the list, header names by argument,
// empty where there is none. Arguments inside of others are left out: see
// ParamPaths.
func ParamHeaders(m *Message) map[string]map[string]string {
	out := map[string]map[string]string{}
	for tool, all := range ParamPaths(m) {
		out[tool] = map[string]string{}
		for _, p := range all {
			if len(p.Path) == 1 {
				out[tool][p.Path[0]] = p.Header
			}
		}
	}
	return out
}
