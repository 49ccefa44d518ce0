package mask

import (
	"context"
	"fmt"
	"log/slog"
)

// Handler passes records on to inner with every text in them masked: message,
// attribute keys, strings, errors, Stringers, and whatever else is not a plain
// number, boolean or time. A log line cannot hold a known value.
func Handler(inner slog.Handler, m *Mask) slog.Handler { return handler{inner, m} }

type handler struct {
	inner slog.Handler
	mask  *Mask
}

func (h handler) Enabled(ctx context.Context, l slog.Level) bool { return h.inner.Enabled(ctx, l) }

func (h handler) Handle(ctx context.Context, r slog.Record) error {
	out := slog.NewRecord(r.Time, r.Level, h.text(r.Message), r.PC)
	r.Attrs(func(a slog.Attr) bool {
		out.AddAttrs(h.attr(a))
		return true
	})
	return h.inner.Handle(ctx, out)
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return handler{h.inner.WithAttrs(h.attrs(attrs)), h.mask}
}

func (h handler) WithGroup(name string) slog.Handler {
	return handler{h.inner.WithGroup(h.text(name)), h.mask}
}

func (h handler) text(s string) string {
	out, _ := h.mask.Text(s)
	return out
}

func (h handler) attrs(in []slog.Attr) []slog.Attr {
	out := make([]slog.Attr, len(in))
	for i, a := range in {
		out[i] = h.attr(a)
	}
	return out
}

// attr resolves the value now: what a LogValuer says later would pass unread.
func (h handler) attr(a slog.Attr) slog.Attr {
	v := a.Value.Resolve()
	switch v.Kind() {
	case slog.KindString:
		v = slog.StringValue(h.text(v.String()))
	case slog.KindGroup:
		v = slog.GroupValue(h.attrs(v.Group())...)
	case slog.KindAny:
		if b, ok := v.Any().([]byte); ok {
			v = slog.StringValue(h.text(string(b)))
		} else {
			v = slog.StringValue(h.text(h.print(v.Any())))
		}
	case slog.KindInt64, slog.KindUint64, slog.KindFloat64:
		// A value of digits may have become a number.
		if s := v.String(); len(s) >= minNeedle {
			if masked := h.text(s); masked != s {
				v = slog.StringValue(masked)
			}
		}
	}
	return slog.Attr{Key: h.text(a.Key), Value: v}
}

// print spells any value: errors by Error, Stringers by String, structures
// field by field. A panic in there becomes text, as fmt does it.
func (h handler) print(v any) string { return fmt.Sprintf("%+v", v) }
