package audit

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	agefile "filippo.io/age"
)

var bodyTime = time.Date(2026, 11, 28, 14, 5, 59, 0, time.UTC)

// noise is text that does not compress.
func noise(n int) []byte {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// stored is a body in files, as a commit has them, by suffix.
func stored(t testing.TB, of string, text []byte, recipients ...agefile.Recipient) (BodyRef, map[string][]byte) {
	t.Helper()
	salt := bytes.Repeat([]byte{7}, saltBytes)
	ref := BodyRef{Of: of, Size: int64(len(text)), Digest: bodyDigest(salt, text), Kept: KeptFull}
	_, path, err := bodyPlace("gate/r_1", bodyTime, ref)
	if err != nil {
		t.Fatal(err)
	}
	files, err := encodeBody(path, of, salt, text, sealer(recipients))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for p, b := range files {
		suffix, ok := strings.CutPrefix(p, path)
		if !ok {
			t.Fatalf("a file at %s, outside of %s", p, path)
		}
		out[suffix] = b
	}
	return ref, out
}

func from(files map[string][]byte) func(string) ([]byte, error) {
	return func(suffix string) ([]byte, error) {
		b, ok := files[suffix]
		if !ok {
			return nil, fmt.Errorf("%q: %w", suffix, fs.ErrNotExist)
		}
		return b, nil
	}
}

// sshIdentity makes a key with stock ssh-keygen.
func sshIdentity(t testing.TB, passphrase string) (agefile.Recipient, agefile.Identity) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-a", "1", "-N", passphrase, "-C", "auditors", "-f", path).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	pub, err := os.ReadFile(path + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	rs, err := ParseRecipients([]string{strings.TrimSpace(string(pub))})
	if err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := ParseIdentities(key, func() ([]byte, error) { return []byte(passphrase), nil })
	if err != nil {
		t.Fatal(err)
	}
	return rs[0], ids[0]
}

func TestABodyReadsAsItWasWritten(t *testing.T) {
	recipient, identity := sshIdentity(t, "")
	second, secondID := sshIdentity(t, "over the hill")
	x, err := agefile.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	_, stranger := sshIdentity(t, "")
	for _, c := range []struct {
		text  []byte
		parts int
	}{
		{nil, 0},
		{[]byte(`{"jsonrpc":"2.0"}`), 0},
		{bytes.Repeat([]byte("all the same "), 1_000_000), 0},
		{noise(bodyChunk), 2}, // with gzip's own bytes
		{noise(3 << 20), 4},
	} {
		t.Run(fmt.Sprint(len(c.text)), func(t *testing.T) {
			ref, files := stored(t, "response", c.text)
			if len(files) != 1+c.parts {
				t.Errorf("%d files, want %d parts", len(files), c.parts)
			}
			got, err := OpenBody(ref, from(files))
			if err != nil || !bytes.Equal(got, c.text) {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			ref, sealed := stored(t, "response", c.text, recipient, second, x.Recipient())
			for p, b := range sealed {
				if !isSealed(b) || len(b) > maxBodyFile || bytes.Contains(b, []byte("gzip")) {
					t.Errorf("%s of %d bytes: sealed: %v", p, len(b), isSealed(b))
				}
			}
			for i, id := range []agefile.Identity{identity, secondID, x} {
				if got, err := OpenBody(ref, from(sealed), id); err != nil || !bytes.Equal(got, c.text) {
					t.Fatalf("identity %d: %d bytes, %v", i, len(got), err)
				}
			}
			for _, ids := range [][]agefile.Identity{nil, {stranger}} {
				if _, err := OpenBody(ref, from(sealed), ids...); !errors.Is(err, ErrBodySealed) {
					t.Errorf("opened by a stranger: %v", err)
				}
			}
		})
	}
}

// An auditor needs no program of ours: tail, gunzip, sha256sum.
func TestStockToolsReadABody(t *testing.T) {
	ref, files := stored(t, "request", []byte("select 1;\n"))
	path := filepath.Join(t.TempDir(), "body")
	if err := os.WriteFile(path, files[""], 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("sh", "-c", `tail -n +2 "$0" | gunzip`, path).Output()
	if err != nil || string(out) != "select 1;\n" {
		t.Errorf("%q, %v", out, err)
	}
	sum := sha256.Sum256(append(bytes.Repeat([]byte{7}, 32), out...))
	if ref.Digest != "sha256:"+hex.EncodeToString(sum[:]) {
		t.Errorf("digest %s", ref.Digest)
	}
}

func TestABodyAtTheBound(t *testing.T) {
	text := noise(MaxBody)
	ref, files := stored(t, "response", text)
	if got, err := OpenBody(ref, from(files)); err != nil || !bytes.Equal(got, text) || len(files) != 19 {
		t.Errorf("%d bytes in %d files, %v", len(got), len(files), err)
	}
}

func TestABodyThatIsNotTheOneIsRefused(t *testing.T) {
	big, files := stored(t, "response", noise(2<<20))
	small, one := stored(t, "response", []byte("hello"))
	_, other := stored(t, "response", []byte("jello"))
	head, z, _ := bytes.Cut(one[""], []byte("\n"))
	edit := func(old, new string) map[string][]byte {
		if !bytes.Contains(head, []byte(old)) {
			t.Fatalf("no %s in %s", old, head)
		}
		return map[string][]byte{"": append(append(bytes.Replace(head, []byte(old), []byte(new), 1), '\n'), z...)}
	}
	with := func(m map[string][]byte, suffix string, b []byte) map[string][]byte {
		m = maps.Clone(m)
		m[suffix] = b
		return m
	}
	lost := maps.Clone(files)
	delete(lost, ".1")
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	for range 64 {
		if _, err := w.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	z5 := z
	z = b.Bytes()
	bomb, bombAtBound := edit(`"size":5`, `"size":5`), edit(`"size":5`, `"size":16777216`)
	z = z5
	recipient, identity := sshIdentity(t, "")
	_, sealedOther := stored(t, "response", []byte("jello"), recipient)
	for name, c := range map[string]struct {
		ref   BodyRef
		files map[string][]byte
		want  error
	}{
		"missing":               {small, nil, fs.ErrNotExist},
		"another body":          {small, other, ErrBodyDiffers},
		"another body, sealed":  {small, sealedOther, ErrBodyDiffers},
		"of lies":               {small, edit(`"response"`, `"request"`), ErrBodyDiffers},
		"size lies":             {small, edit(`"size":5`, `"size":4`), ErrBody},
		"size beyond the bound": {small, edit(`"size":5`, `"size":99999999999`), ErrBody},
		"negative size":         {small, edit(`"size":5`, `"size":-1`), ErrBody},
		"version":               {small, edit(`"v":1`, `"v":2`), ErrBody},
		"encoding":              {small, edit("gzip", "zstd"), ErrBody},
		"another salt":          {small, edit("0707", "0708"), ErrBodyDiffers},
		"short salt":            {small, edit("0707", "07"), ErrBody},
		"unknown member":        {small, edit(`{"v"`, `{"x":1,"v"`), ErrBody},
		"member twice":          {small, edit(`"v":1`, `"v":1,"v":1`), ErrBody},
		"upper case":            {small, edit(`"v":1`, `"V":1`), ErrBody},
		"no header":             {small, with(one, "", z), ErrBody},
		"empty":                 {small, with(one, "", []byte{}), ErrBody},
		"truncated":             {small, with(one, "", one[""][:len(one[""])-5]), ErrBody},
		"more after the end":    {small, with(one, "", append(bytes.Clone(one[""]), 'x')), ErrBody},
		"two streams":           {small, with(one, "", append(bytes.Clone(one[""]), z...)), ErrBody},
		"zip bomb":              {small, bomb, ErrBody},
		"zip bomb at the bound": {small, bombAtBound, ErrBody},
		"file beyond the bound": {small, with(one, "", append(bytes.Clone(one[""]), noise(maxBodyFile)...)), ErrBody},
		"a part is missing":     {big, lost, ErrBody},
		"a part of another":     {big, with(files, ".1", files[".0"]), ErrBody},
		"a part is cut":         {big, with(files, ".1", files[".1"][:100]), ErrBody},
		"a part is empty":       {big, with(files, ".1", []byte{}), ErrBody},
		"a broken seal":         {small, with(one, "", []byte(sealedMark+"-> X25519 x\n")), ErrBody},
		"text beside parts":     {big, with(files, "", append(bytes.Clone(files[""]), 'x')), ErrBody},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := OpenBody(c.ref, from(c.files), identity)
			if !errors.Is(err, c.want) || got != nil {
				t.Errorf("%d bytes, %v; want %v", len(got), err, c.want)
			}
		})
	}
}

func TestRecipientsAndIdentitiesAreChecked(t *testing.T) {
	for _, l := range []string{"", "ssh-ed25519 AAAA", "age1xyz", "AGE-SECRET-KEY-1", "ecdsa-sha2-nistp256 AAAA"} {
		if rs, err := ParseRecipients([]string{l}); err == nil {
			t.Errorf("%q: %v", l, rs)
		}
	}
	for _, f := range []string{"", "nonsense", "-----BEGIN OPENSSH PRIVATE KEY-----\n"} {
		if ids, err := ParseIdentities([]byte(f), nil); err == nil {
			t.Errorf("%q: %v", f, ids)
		}
	}
}

func FuzzParseBodyHeader(f *testing.F) {
	_, one := stored(f, "response", []byte("hello"))
	f.Add(one[""])
	_, many := stored(f, "request", noise(2<<20))
	f.Add(many[""])
	f.Add([]byte(`{"v":1,"of":"","size":0,"salt":"","encoding":"gzip","parts":[{"size":-1}]}` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, rest, err := parseBodyHeader(b)
		if err != nil {
			return
		}
		if len(h.Parts) > maxParts || h.Size > MaxBody || len(h.Parts) > 0 && len(rest) > 0 {
			t.Errorf("accepted %+v with %d bytes", h, len(rest))
		}
		// Whatever it says, reading on stays within bounds and never panics.
		ref := BodyRef{Of: h.Of, Size: h.Size, Digest: digestMark + strings.Repeat("0", 64)}
		if _, err := OpenBody(ref, func(string) ([]byte, error) { return b, nil }); err == nil {
			t.Error("a body whose SHA-256 is zero")
		}
	})
}
