package approval_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"testing"
	"time"

	"countersign/enforcer/approval"
)

func seal(t testing.TB, key byte) approval.Seal {
	t.Helper()
	s, err := approval.NewSeal(bytes.Repeat([]byte{key}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSeal(t *testing.T) {
	s, now := seal(t, 1), time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	sealed, err := s.Close("session", now.Add(time.Hour), map[string]string{"sub": "bob"})
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]string
	if err := seal(t, 1).Open("session", sealed, now, &got); err != nil || got["sub"] != "bob" {
		t.Fatalf("got %v, %v", got, err)
	}
	flipped := []byte(sealed)
	flipped[40] ^= 1
	for name, err := range map[string]error{
		"another purpose": s.Open("link", sealed, now, &got),
		"another key":     seal(t, 2).Open("session", sealed, now, &got),
		"too late":        s.Open("session", sealed, now.Add(time.Hour), &got),
		"changed":         s.Open("session", string(flipped), now, &got),
		"cut":             s.Open("session", sealed[:30], now, &got),
		"empty":           s.Open("session", "", now, &got),
		"other fields":    s.Open("session", sealed, now, &struct{ Name string }{}),
		"padded":          s.Open("session", sealed+"=", now, &got),
	} {
		if !errors.Is(err, approval.ErrSealed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if again, err := s.Close("session", now.Add(time.Hour), map[string]string{"sub": "bob"}); err != nil || again == sealed {
		t.Errorf("twice the same seal: %v", err)
	}
	if _, err := approval.NewSeal([]byte("short")); err == nil {
		t.Error("a short key was taken")
	}
}

func TestMark(t *testing.T) {
	s := seal(t, 1)
	m := s.Mark("form", "a")
	if !s.Marked("form", "a", m) || s.Marked("form", "b", m) || s.Marked("other", "a", m) || seal(t, 2).Marked("form", "a", m) || s.Marked("form", "a", "") {
		t.Error("a mark stands for something else")
	}
	if s.Mark("ab", "c") == s.Mark("a", "bc") {
		t.Error("two spell the same")
	}
}

func FuzzOpen(f *testing.F) {
	s, now := seal(f, 1), time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	good, err := s.Close("session", now.Add(time.Hour), "x")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add("")
	f.Add(base64.RawURLEncoding.EncodeToString(make([]byte, 24+16+8)))
	f.Fuzz(func(t *testing.T, in string) {
		var v string
		// Nonces are random: a corpus may hold good ones of other runs.
		if err := s.Open("session", in, now, &v); in == good && err != nil || err == nil && v != "x" {
			t.Fatalf("%q opens as %q: %v", in, v, err)
		}
	})
}
