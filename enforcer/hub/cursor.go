package hub

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
)

// A cursor of a merged list says which servers have more, and each one's own
// cursor; null stands for a server whose first page is still to come. It is
//
//	base64url({"<list>":{"<server>":<string or null>,…}})
//
// with the servers in the order of their names and no white space. Text that
// would not be spelled so is none of ours. It is no secret and grants nothing:
// every server that it names is asked through the whole pipeline.
type cursor map[string]*string

const (
	maxCursor    = 1 << 20 // of all servers together, encoded
	maxOwnCursor = 4 << 10 // of one server
)

var errCursor = errors.New("this cursor is not one that this list gave")

func (c cursor) encode(list string) (string, error) {
	b, err := json.Marshal(map[string]cursor{list: c}) // a map's keys are sorted
	if err != nil {
		return "", err
	}
	text := base64.RawURLEncoding.EncodeToString(b)
	if len(text) > maxCursor {
		return "", fmt.Errorf("the servers' cursors are longer than %d bytes together", maxCursor)
	}
	return text, nil
}

func decodeCursor(list, s string) (cursor, error) {
	if len(s) > maxCursor {
		return nil, errCursor
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil, errCursor
	}
	var all map[string]cursor
	if err := json.Unmarshal(b, &all); err != nil || len(all) != 1 || len(all[list]) == 0 {
		return nil, errCursor
	}
	for server, own := range all[list] {
		if !isServer(server) || own != nil && len(*own) > maxOwnCursor {
			return nil, errCursor
		}
	}
	again, err := json.Marshal(all)
	if err != nil || !bytes.Equal(again, b) {
		return nil, errCursor
	}
	return all[list], nil
}
