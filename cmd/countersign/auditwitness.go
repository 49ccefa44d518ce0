package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/spf13/cobra"

	"countersign/audit"
	cosigning "countersign/audit/witness"
)

// quorumFlags say whose cosignatures are demanded.
type quorumFlags struct {
	policy string
	keys   []string
	n      int
	grace  time.Duration
}

func (f *quorumFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.policy, "witness-policy", "", "file that says which witnesses must have cosigned (c2sp.org/tlog-policy)")
	fl.StringArrayVar(&f.keys, "witness-key", nil, "a witness's vkey, in place of a policy; may be repeated")
	fl.IntVar(&f.n, "quorum", 0, "how many of the --witness-key must have cosigned; all, by default")
}

func (f *quorumFlags) addGrace(cmd *cobra.Command) {
	cmd.Flags().DurationVar(&f.grace, "quorum-grace", audit.DefaultGrace, "how long entries may wait for their cosignatures, from when they were committed to now")
}

// quorum is nil where nothing is demanded.
func (f *quorumFlags) quorum() (*audit.Quorum, error) {
	switch {
	case f.policy != "" && (len(f.keys) > 0 || f.n != 0):
		return nil, errors.New("--witness-policy says it all: leave out --witness-key and --quorum")
	case f.policy != "":
		b, err := os.ReadFile(f.policy)
		if err != nil {
			return nil, err
		}
		q, err := audit.ParseQuorum(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.policy, err)
		}
		return q, nil
	case len(f.keys) > 0:
		n := f.n
		if n == 0 {
			n = len(f.keys)
		}
		return audit.NewQuorum(f.keys, n)
	case f.n != 0:
		return nil, errors.New("--quorum: of whom? Give --witness-key for each witness, or --witness-policy")
	}
	return nil, nil
}

func auditWitnessCommand() *cobra.Command {
	var o struct{ listen, dir, name, key, logs, cert, tlsKey string }
	var printKey bool
	cmd := &cobra.Command{
		Use:   "witness",
		Short: "Run a witness: cosign the checkpoints of enforcers that others run",
		Long: `Serves POST /add-checkpoint (c2sp.org/tlog-witness): it cosigns a checkpoint that is
signed by a key in --logs, once a proof shows that its tree begins with the one
cosigned last. What it cosigned last it keeps in --dir, durably, before the
cosignature leaves. Run it where whoever runs the enforcers has no say.

--logs holds a line for each enforcer: its name, and its checkpoint key as in the
.pub file (prod-1 ssh-ed25519 AAAA…), as its "audit key" prints it. Every run of that enforcer is a log of its
own, and is cosigned from its beginning on.

Never restore --dir from a copy, and never run two witnesses with one key: what
one of them forgot, or does not know, it would cosign once more in another way.
If --dir is lost, give the witness a new key and a new name.

Prints its vkey, which goes into the policies of who asks it and of who trusts it.
GET /healthz says ok. SIGTERM stops it in order.`,
		Example: `  countersign audit witness --name witness.example/w1 --key witness_key --logs logs --dir /var/lib/countersign-witness`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			pem, err := os.ReadFile(o.key)
			if err != nil {
				return err
			}
			key, err := audit.ParsePrivateKey(pem)
			if err != nil {
				return fmt.Errorf("%s: %w", o.key, err)
			}
			cfg := cosigning.Config{Name: o.name, Key: key, Dir: o.dir}
			if printKey {
				vkey, err := cosigning.Key(o.name, key)
				if err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), vkey)
				return nil
			}
			if o.logs == "" {
				return errors.New("--logs: whose checkpoints is it to cosign? Want a file with a line for each enforcer: its name, and its checkpoint key")
			}
			logs, err := os.ReadFile(o.logs)
			if err != nil {
				return fmt.Errorf("--logs: %w", err)
			}
			if cfg.Logs, err = audit.ParseLogKeys(logs); err != nil {
				return fmt.Errorf("%s: %w", o.logs, err)
			}
			cfg.Log = slog.New(slog.NewJSONHandler(cmd.ErrOrStderr(), nil))
			return runWitness(cmd.Context(), cfg, cmd.OutOrStdout(), o.listen, o.cert, o.tlsKey)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&o.name, "name", "", "of its key, like a URL without scheme: witness.example/w1 (required)")
	fl.StringVar(&o.key, "key", "", "OpenSSH ed25519 private key file, for nothing else (required)")
	fl.StringVar(&o.logs, "logs", "", "file of the enforcers that it cosigns, and their checkpoint keys")
	fl.StringVar(&o.dir, "dir", "/var/lib/countersign-witness", "what it has cosigned; one witness each")
	fl.StringVar(&o.listen, "listen", "127.0.0.1:7380", "address to serve on")
	fl.StringVar(&o.cert, "tls-cert", "", "certificate file (PEM); serves plain HTTP without, for a proxy before it")
	fl.StringVar(&o.tlsKey, "tls-key", "", "key file (PEM)")
	fl.BoolVar(&printKey, "print-key", false, "print the vkey, and nothing else")
	for _, f := range []string{"name", "key"} {
		if err := cmd.MarkFlagRequired(f); err != nil {
			panic(err) // the flags are defined a few lines up
		}
	}
	return cmd
}

// runWitness serves until ctx ends, and lets what is under way finish.
func runWitness(ctx context.Context, cfg cosigning.Config, out io.Writer, listen, cert, key string) error {
	w, err := cosigning.Open(cfg)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return errors.Join(fmt.Errorf("--listen: %w", err), w.Close())
	}
	server := httpServer(w, cfg.Log)
	server.ReadTimeout, server.WriteTimeout = 10*time.Second, 30*time.Second
	served := make(chan error, 1)
	go func() { served <- serveHTTP(server, l, config{TLSCert: cert, TLSKey: key}) }()
	fmt.Fprintln(out, w.Key())
	cfg.Log.Info("the witness serves", "listen", l.Addr().String(), "vkey", w.Key())
	select {
	case err = <-served:
	case <-ctx.Done():
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		err = server.Shutdown(stop)
		cancel()
	}
	return errors.Join(err, server.Close(), w.Close())
}
