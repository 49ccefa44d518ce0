package mask

// Message masks one JSON-RPC message.
func (m *Mask) Message(msg []byte) (out []byte, r Report, err error) {
	return nil, Report{}, ErrNotJSON
}

// Text masks plain text.
func (m *Mask) Text(s string) (string, Report) {
	return "[masked: text]", Report{}
}
