// Command bench measures what the gate costs. In one run, and in turns, the
// same load generator calls the same MCP server three ways:
//
//	direct       nothing between
//	bare         a net/http/httputil.ReverseProxy between, which knows nothing
//	countersign  the product, as in production: OIDC tokens, 1,000 rules, a
//	             minted credential injected and masked, intent and outcome of
//	             every call durable, the record published to Git
//
// Server, proxy and product are processes of their own on loopback, and share
// the machine with the generator. Figures of different runs or machines do not
// compare; the ratios within one run do, and so they are what is judged. The
// disk's fdatasync is measured between the turns, for the same reason.
// Measured are JSON and event streams, answers of 200 bytes, 10 KB and 1 MB,
// one caller and sixty-four; calls have 200 bytes. Then the record's parts by
// themselves: the journal beside a plain loop of write and fdatasync, the way to
// signed commits, the program's verification of them, what Git packs them to.
//
// A call that fails, or that the record does not show, makes the run fail. A
// target that is missed is reported, no more.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// options are the flags.
type options struct {
	duration time.Duration // of one turn
	rounds   int
	sizes    []int // of answers
	clients  []int
	profile  string // folder for the product's CPU profile; none if empty
	program  string // path of countersign
	dir      string // where the temporary folder goes: on the disk to be measured
}

func main() {
	if role := os.Getenv(roleVar); role != "" {
		os.Exit(play(role))
	}
	o := options{}
	clients := flag.String("clients", "1,64", "how many callers at once; a list measures each")
	answers := flag.String("sizes", "200,10000,1000000", "bytes of an answer; a list measures each")
	short := flag.Bool("short", false, "one round of short turns: does it work, not how fast")
	flag.DurationVar(&o.duration, "duration", time.Second, "how long one turn lasts")
	flag.IntVar(&o.rounds, "rounds", 3, "how often all take turns")
	flag.StringVar(&o.profile, "profile", "", "have countersign write its CPU profile into this `folder`")
	flag.StringVar(&o.program, "program", "", "`path` of countersign; beside this program by default")
	flag.StringVar(&o.dir, "dir", "", "`folder` for state, on the disk to be measured; the system's temporary one by default")
	flag.Parse()
	var err error
	if o.clients, err = numbers("clients", *clients, 1024); err == nil {
		o.sizes, err = numbers("sizes", *answers, maxAnswer)
	}
	if err != nil || flag.NArg() > 0 || o.rounds < 1 || o.duration <= 0 {
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
		flag.Usage()
		os.Exit(2)
	}
	if *short {
		o.duration, o.rounds = 100*time.Millisecond, 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := bench(ctx, o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// numbers reads "1,64".
func numbers(name, s string, most int) (out []int, err error) {
	for f := range strings.SplitSeq(s, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(f))
		if err != nil || n < 1 || n > most {
			return nil, fmt.Errorf("-%s: %q is no number from 1 to %d", name, f, most)
		}
		out = append(out, n)
	}
	return out, nil
}

// bench sets everything up, measures, prints, and takes everything down.
func bench(ctx context.Context, o options, out io.Writer) (err error) {
	dir, err := os.MkdirTemp(o.dir, "countersign-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := setScene(ctx, o, dir)
	if err != nil {
		return err
	}
	results, err := s.measure(ctx, o)
	if err == nil {
		err = s.checkRecord(results)
	}
	if err == nil {
		results.record, err = s.measureRecord(ctx, o)
	}
	if err = errors.Join(err, s.close()); err != nil {
		return err
	}
	_, err = io.WriteString(out, results.String())
	return err
}

// measure lets all take turns: ways within sizes within kinds within client counts within
// rounds, so that what the machine does meanwhile falls on all alike.
func (s *scene) measure(ctx context.Context, o options) (*results, error) {
	r := &results{duration: o.duration, rounds: o.rounds}
	for range o.rounds {
		for _, clients := range o.clients {
			for _, kind := range kinds {
				for _, size := range o.sizes {
					for _, way := range ways {
						before := s.cpu(way)
						t, err := load(ctx, s.target(way, kind, size), clients, o.duration)
						if err != nil {
							return nil, fmt.Errorf("%s, %s answers of %d bytes, %d clients: %w", way, kind, size, clients, err)
						}
						t.cpu = s.cpu(way) - before
						r.add(cell{clients, kind, size, way}, t)
					}
				}
			}
			d, err := syncLatency(s.dir)
			if err != nil {
				return nil, err
			}
			r.disk = append(r.disk, d...)
		}
	}
	return r, nil
}
