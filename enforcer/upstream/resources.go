package upstream

import "time"

// Resources bounds each process of a spawned server, by rlimits that it
// inherits to its children; zero is no bound.
type Resources struct {
	Memory    int64         // bytes of data and heap (RLIMIT_DATA)
	CPU       time.Duration // of its whole life, in seconds (RLIMIT_CPU)
	Files     int           // open at once (RLIMIT_NOFILE)
	Processes int           // of our user on this machine, threads counted; root is not bound (RLIMIT_NPROC)
	FileSize  int64         // bytes of a file that it writes (RLIMIT_FSIZE)
}
