package audit

import "fmt"

// changes is the difference of two trees: paths to blobs.
type changes struct {
	added  map[string]string // was not there
	gone   map[string]string // what was there and is not, or is changed
	latest map[string]string // added or changed: what is there now
}

func (repo Repository) diff(from, to string) (changes, error) {
	d := changes{map[string]string{}, map[string]string{}, map[string]string{}}
	return d, repo.diffTree(&d, "", from, to, 0)
}

func (repo Repository) diffTree(d *changes, prefix, from, to string, depth int) error {
	if from == to {
		return nil
	}
	if depth > 12 {
		return fmt.Errorf("folders nest too deeply in %s", prefix)
	}
	read := func(hash string) (map[string]Node, error) {
		m := map[string]Node{}
		if hash == "" {
			return m, nil
		}
		nodes, err := repo.Tree(hash)
		for _, n := range nodes {
			if _, twice := m[n.Name]; twice { // a file and a folder, say: Git sorts them apart, and one would hide the other
				return nil, fmt.Errorf("%s is there twice", prefix+n.Name)
			}
			m[n.Name] = n
		}
		return m, err
	}
	old, err := read(from)
	if err != nil {
		return err
	}
	now, err := read(to)
	if err != nil {
		return err
	}
	for name := range now {
		if _, ok := old[name]; !ok {
			old[name] = Node{}
		}
	}
	for name, o := range old {
		n, path := now[name], prefix+name
		if o == n {
			continue
		}
		var oldTree, newTree string
		if o.Mode == modeDir {
			oldTree = o.Hash
		} else if o.Hash != "" {
			d.gone[path] = o.Hash
		}
		if n.Mode == modeDir {
			newTree = n.Hash
		} else if n.Hash != "" {
			if n.Mode != modeFile {
				return fmt.Errorf("%s is not a plain file (mode %s)", path, n.Mode)
			}
			d.latest[path] = n.Hash
			if o.Hash == "" {
				d.added[path] = n.Hash
			}
		}
		if err := repo.diffTree(d, path+"/", oldTree, newTree, depth+1); err != nil {
			return err
		}
	}
	return nil
}

const (
	modeDir  = "40000"
	modeFile = "100644"
)
