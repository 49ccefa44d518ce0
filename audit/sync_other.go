//go:build !linux

package audit

import "os"

type dataFile struct{ *os.File }
