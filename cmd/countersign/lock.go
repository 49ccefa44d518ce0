package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"countersign/enforcer"
	"countersign/enforcer/mask"
	"countersign/enforcer/upstream"
	"countersign/rules"
)

// maxToolName is the longest name that tools.lock takes, in bytes: MCP says
// that a tool has at most 128 characters of ASCII.
const maxToolName = 128

func policyLockCommand() *cobra.Command {
	var names, headers, env []string
	var all, check bool
	cmd := &cobra.Command{
		Use:   "lock [directory]",
		Short: "Ask servers for their tools, and write tools.lock",
		Long: `Asks servers for their tools, shows what is new, changed or gone, and writes the
fingerprints into tools.lock. From then on the enforcer hides and refuses what
is not as it stands there: read the tools before you commit it.

Without --server and --all the servers that are locked already are asked. What a
server wants to see before it answers is given here, never asked of Vault, and
written nowhere: --header for a url, --env for a command. A value that reads
env:NAME is taken from the environment, where no list of processes shows it.

Whatever cannot be seen in a server's text is printed as an escape.`,
		Example: `  countersign policy lock ./policy --server customers --header 'Authorization: env:LOCK_AUTH'
  countersign policy lock ./policy --check`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := "."
			if len(args) == 1 {
				dir = args[0]
			}
			s := survey{out: cmd.OutOrStdout(), err: cmd.ErrOrStderr(), mask: mask.New(mask.Options{})}
			if err := s.credentials(headers, env); err != nil {
				return err
			}
			servers, old, err := rules.LoadServers(os.DirFS(dir))
			if err != nil {
				return err
			}
			asked, err := s.choose(servers, old, names, all)
			if err != nil {
				return err
			}
			lock, changed, err := s.lock(cmd.Context(), servers, asked, old)
			switch {
			case err != nil:
				return err
			case !changed:
				fmt.Fprintln(s.out, "tools.lock: nothing changed")
				return nil
			case check:
				fmt.Fprintln(s.out, "tools.lock: not written (--check)")
				return errFound
			}
			if err := replaceFile(filepath.Join(dir, "tools.lock"), lock.Encode()); err != nil {
				return err
			}
			fmt.Fprintln(s.out, "tools.lock: written; commit it when you have read the tools")
			return nil
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&names, "server", nil, "server to ask and to lock; may be repeated")
	f.BoolVar(&all, "all", false, "every server of the policy")
	f.BoolVar(&check, "check", false, "write nothing; exit 1 if anything differs")
	f.StringArrayVar(&headers, "header", nil, "'NAME: VALUE' for the one server that is asked; may be repeated")
	f.StringArrayVar(&env, "env", nil, "NAME=VALUE in the environment of the one server that is asked; may be repeated")
	return cmd
}

// survey asks servers and shows what they say.
type survey struct {
	out, err io.Writer
	mask     *mask.Mask // knows the values that were given
	inject   upstream.Injection
}

// credentials takes in what --header and --env give.
func (s *survey) credentials(headers, env []string) error {
	value := func(flag, v string) (string, error) {
		if name, ok := strings.CutPrefix(v, "env:"); ok {
			if v = os.Getenv(name); v == "" {
				return "", fmt.Errorf("%s: the environment has no %s", flag, name)
			}
		}
		for _, secret := range []string{v, v[strings.LastIndex(v, " ")+1:]} { // a server may send it back
			if _, err := s.mask.Add("given", secret); err != nil && !errors.Is(err, mask.ErrTooShort) {
				return "", fmt.Errorf("%s: %w", flag, err)
			}
		}
		return v, nil
	}
	s.inject.Header = http.Header{}
	for _, h := range headers {
		name, v, ok := strings.Cut(h, ":")
		if name = strings.TrimSpace(name); !ok || name == "" {
			return errors.New("--header: want 'NAME: VALUE'")
		}
		v, err := value("--header "+name, strings.TrimSpace(v))
		if err != nil {
			return err
		}
		s.inject.Header.Add(name, v)
	}
	for _, e := range env {
		name, v, ok := strings.Cut(e, "=")
		if !ok || name == "" {
			return errors.New("--env: want NAME=VALUE")
		}
		v, err := value("--env "+name, v)
		if err != nil {
			return err
		}
		s.inject.Env = append(s.inject.Env, name+"="+v)
	}
	return nil
}

// choose lists the servers to ask.
func (s *survey) choose(servers []rules.Server, old rules.Lock, names []string, all bool) ([]rules.Server, error) {
	if all && len(names) > 0 {
		return nil, errors.New("either --server or --all")
	}
	for _, name := range names {
		if !slices.ContainsFunc(servers, func(is rules.Server) bool { return is.Name == name }) {
			return nil, fmt.Errorf("--server: %q is not in servers/", name)
		}
	}
	asked := slices.DeleteFunc(slices.Clone(servers), func(is rules.Server) bool {
		_, locked := old[is.Name]
		return !all && !slices.Contains(names, is.Name) && (len(names) > 0 || !locked)
	})
	switch {
	case len(asked) == 0 && len(old) == 0:
		return nil, errors.New("no server is locked yet: name one with --server, or take --all")
	case len(asked) != 1 && len(s.inject.Header)+len(s.inject.Env) > 0: // a server's credential is no other's business
		return nil, errors.New("--header and --env are for one server: name it with --server")
	}
	return asked, nil
}

// lock asks the servers and shows what differs from the old lock. Nothing is
// returned unless all of them have answered.
func (s *survey) lock(ctx context.Context, servers, asked []rules.Server, old rules.Lock) (lock rules.Lock, changed bool, err error) {
	lock = rules.Lock{}
	for _, name := range slices.Sorted(maps.Keys(old)) {
		if !slices.ContainsFunc(servers, func(is rules.Server) bool { return is.Name == name }) {
			fmt.Fprintf(s.out, "%s: not in servers/ any more, so no longer locked\n", name)
			changed = true
			continue
		}
		lock[name] = old[name]
	}
	for _, server := range asked {
		tools, err := s.ask(ctx, server)
		if err != nil {
			return nil, false, fmt.Errorf("server %s: %s", server.Name, s.safe(err.Error()))
		}
		was, locked := old[server.Name]
		pins := map[string]rules.Pin{}
		for _, t := range tools {
			if _, twice := pins[t.Name]; twice {
				return nil, false, fmt.Errorf("server %s lists tool %s twice: nobody knows which of them would be called", server.Name, s.name(t.Name))
			}
			if strings.TrimSpace(t.Name) == "" || len(t.Name) > maxToolName {
				fmt.Fprintf(s.out, "%s: a tool whose name is blank or longer than %d bytes is left out, and will be hidden\n", server.Name, maxToolName)
				continue
			}
			pins[t.Name] = t.Pin
		}
		news := s.differences(server.Name, was, pins, tools)
		lock[server.Name] = pins
		changed = changed || news || !locked
	}
	return lock, changed, nil
}

// ask has one server list its tools.
func (s *survey) ask(ctx context.Context, server rules.Server) ([]enforcer.Offered, error) {
	ctx, cancel := context.WithTimeout(ctx, max(server.Timeout, time.Minute))
	defer cancel()
	up := enforcer.NewUpstream(server, rules.Settings{}, upstream.HTTPConfig{
		TLS: upstream.TLSConfig{Dir: os.Getenv("COUNTERSIGN_UPSTREAM_CERTS")},
	}, upstream.StdioConfig{
		Stderr: func(line string) { fmt.Fprintf(s.err, "%s: %s\n", server.Name, s.safe(line)) },
	})
	tools, err := enforcer.Survey(ctx, up, s.inject)
	if cerr := up.Close(); err == nil {
		err = cerr
	}
	slices.SortStableFunc(tools, func(a, b enforcer.Offered) int { return strings.Compare(a.Name, b.Name) })
	return tools, err
}

// differences prints what is new, changed and gone: of a changed part what it
// says now, since of what it said the lock has a digest only.
func (s *survey) differences(server string, was, is map[string]rules.Pin, tools []enforcer.Offered) bool {
	var text bytes.Buffer
	var added, changed, gone int
	for _, t := range tools {
		pin, known := was[t.Name]
		now, kept := is[t.Name]
		if !kept {
			continue
		}
		parts := pin.Changed(now)
		if known && len(parts) == 0 && !slices.Equal(pin.Required, now.Required) {
			parts = []string{"required arguments"} // somebody wrote into the file
		}
		switch {
		case !known:
			added++
			fmt.Fprintf(&text, "  + %s\n", s.name(t.Name))
			parts = rules.Pin{}.Changed(now) // all there are
		case len(parts) == 0:
			continue
		default:
			changed++
			fmt.Fprintf(&text, "  ~ %s: %s\n", s.name(t.Name), strings.Join(parts, ", "))
		}
		for _, part := range parts {
			s.part(&text, part, t)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(was)) {
		if _, still := is[name]; !still {
			gone++
			fmt.Fprintf(&text, "  - %s\n", s.name(name))
		}
	}
	fmt.Fprintf(s.out, "%s: %s; %d new, %d changed, %d gone\n%s", server, count(len(is), "tool"), added, changed, gone, text.Bytes())
	return added+changed+gone > 0
}

// part prints one part of a tool: a text line by line, anything else as JSON.
func (s *survey) part(w io.Writer, part string, t enforcer.Offered) {
	value := map[string][]byte{"title": t.Title, "description": t.Description, "input schema": t.Input,
		"output schema": t.Output, "annotations": t.Annotations, "other members": t.Other}[part]
	if part == "required arguments" {
		value = []byte(strings.Join(t.Required, ", "))
	}
	if value == nil {
		fmt.Fprintf(w, "      %s: none any more\n", part)
		return
	}
	text := string(value)
	var decoded string
	if json.Unmarshal(value, &decoded) == nil {
		text = decoded
	}
	fmt.Fprintf(w, "      %s:\n", part)
	for line := range strings.SplitSeq(text, "\n") {
		fmt.Fprintf(w, "      │ %s\n", s.safe(line))
	}
}

func (s *survey) name(tool string) string {
	return `"` + strings.ReplaceAll(s.safe(tool), `"`, `\"`) + `"`
}

// safe is a server's text as a terminal may show it: what was given as a
// credential is masked, and what cannot be seen, or moves what stands around
// it, is an escape; so is a backslash, that no text can pretend.
func (s *survey) safe(text string) string {
	text, _ = s.mask.Text(text)
	var b strings.Builder
	for _, r := range text {
		switch {
		case r == '\\':
			b.WriteString(`\\`)
		case unicode.IsPrint(r) && r != '\u2800' && !unicode.In(r, unicode.Variation_Selector, unicode.Other_Default_Ignorable_Code_Point):
			b.WriteRune(r)
		default:
			quoted := strconv.QuoteRuneToASCII(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		}
	}
	return b.String()
}

// replaceFile puts a file in the place of another, whole or not at all.
func replaceFile(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".tools.lock-*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if cerr := f.Chmod(0o644); err == nil {
		err = cerr
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
