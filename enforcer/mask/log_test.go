package mask

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"testing"
)

type valuer struct{ s string }

func (v valuer) LogValue() slog.Value { return slog.StringValue(v.s) }

type stringer struct{ s string }

func (v stringer) String() string { return v.s }

func TestNoLogLineLeaks(t *testing.T) {
	secret := "s3cret-pa55word"
	m := knowing(t, secret, "20250101123456")
	for name, inner := range map[string]func(*bytes.Buffer) slog.Handler{
		"text": func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
		"json": func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
	} {
		var b bytes.Buffer
		log := slog.New(Handler(inner(&b), m))
		u := &url.URL{Scheme: "postgres", User: url.UserPassword("u", secret), Host: "h"}
		log = log.With("base", secret).WithGroup("g-"+secret).With("in", []byte(secret))
		log.Error("msg "+secret, "s", secret, "err", fmt.Errorf("wrapped: %w", errors.New(secret)),
			"stringer", stringer{secret}, "valuer", valuer{secret}, "url", u, secret, "key",
			slog.Group("sub", "deep", secret), "struct", struct{ A, B any }{secret, 1}, "map", map[string][]string{"k": {secret}},
			"n", 20250101123456, "ok", 42, "raw", []byte(secret))
		log.Log(context.Background(), slog.LevelDebug, "not enabled")
		line := b.String()
		if strings.Contains(line, secret) || strings.Contains(line, "20250101123456") {
			t.Errorf("%s: %s", name, line)
		}
		if n := strings.Count(line, "[masked: v0]"); n < 13 || strings.Count(line, "\n") != 1 || !strings.Contains(line, "42") {
			t.Errorf("%s: %d masks in %s", name, n, line)
		}
	}
}
