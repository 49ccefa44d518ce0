package enforcer

// does tells in words what SQL and shell in the arguments do, masked. A secret
// stands in a line whole or not at all, so that what is masked as a line is
// masked.
func (x *exchange) does() (lines []string) {
	x.e.room.works(len(x.raw), func() {
		for _, line := range x.force.policy.Does(x.req) {
			line, _ = x.e.Mask.Text(line)
			lines = append(lines, line)
		}
	})
	return lines
}
