package rules

import (
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/text/unicode/norm"
)

// Addresses. A host is compared as what it connects to: 2852039166,
// 0xA9FEA9FE, 0251.0376.169.254 and ::ffff:a9fe:a9fe are all 169.254.169.254
// to a resolver.

// maxAddress is how much of an URL is looked at.
const maxAddress = 8192

// address lists what an URL, or a host by itself, names.
func address(text string) []*exposure {
	text = webURL(strings.TrimSpace(text))
	if len(text) > maxAddress { // padding behind it changes no host
		text = strings.ToValidUTF8(text[:maxAddress], "")
	}
	if text == "" || strings.ContainsAny(text, " \t\n") {
		return nil
	}
	host, p := text, ""
	if scheme, rest, ok := strings.Cut(text, "://"); ok {
		if strings.EqualFold(scheme, "file") {
			return file(unpercent(rest))
		}
		rest = strings.ReplaceAll(rest, `\`, "/")
		end := strings.IndexAny(rest, "/?#")
		if host = rest; end >= 0 {
			host, p = rest[:end], rest[end:]
		}
		host = host[strings.LastIndexByte(host, '@')+1:]
	} else if i := strings.IndexAny(text, "/?"); i > 0 {
		host, p = text[:i], text[i:]
		host = host[strings.LastIndexByte(host, '@')+1:]
	}
	if cut := strings.IndexAny(host, "{$*"); cut > 0 || strings.LastIndexByte(host, '[') > 0 { // as curl and the shell expand it
		if cut < 0 {
			cut = strings.LastIndexByte(host, '[')
		}
		for _, h := range hostEntries {
			if h.numeric && cut >= 6 && strings.HasPrefix(h.host, strings.ToLower(host[:cut])) {
				return []*exposure{h.of}
			}
		}
	}
	host = hostName(strings.TrimRight(host, "!")) // of an archive: jar:…!/
	if host == "" {
		return nil
	}
	full := strings.Contains(text, "://")
	var found []*exposure
	for _, h := range hostEntries {
		if h.host == host && (full || !h.plain || p != "") {
			found = append(found, h.of)
		}
		if h.numeric && (holds(host, h.host+".", true) || holds(host, h.dashed+".", true)) {
			found = append(found, h.of) // 169.254.169.254.nip.io
		}
	}
	if full || p != "" {
		found = append(found, urlEntries(host+urlPort(text), p)...)
	}
	if full && p != "" {
		for _, e := range file(unpercent(strings.TrimRight(strings.SplitN(p, "?", 2)[0], "/"))) {
			if e.kind == "file" || e.kind == "git" {
				found = append(found, e)
			}
		}
	}
	if inner := unpercent(p); full { // one that another fetches: a proxy's path, ?url=…
		if i := max(strings.LastIndex(inner, "http:/"), strings.LastIndex(inner, "https:/")); i >= 0 {
			found = append(found, address(inner[i:])...)
		}
	}
	return distinctExposures(found)
}

var webScheme = regexp.MustCompile(`^(?i:(?:[a-z-]+:)?(https?|wss?|ftp):)[/\\]*`)

// webURL spells an URL as those that fetch it read it: without tabs and line
// ends, with two slashes however many there are.
func webURL(text string) string {
	if strings.HasPrefix(text, "//") {
		return "http:" + text
	}
	bare := webBreaks.Replace(text)
	if m := webScheme.FindStringSubmatch(bare); m != nil {
		return m[1] + "://" + bare[len(m[0]):]
	}
	return text
}

var webBreaks = strings.NewReplacer("\t", "", "\n", "", "\r", "")

type hostEntry struct {
	of      *exposure
	host    string
	dashed  string
	numeric bool
	plain   bool // a word that is a host only within an URL
}

var hostEntries = func() []hostEntry {
	var all []hostEntry
	for _, e := range catalogue {
		for _, h := range e.hosts {
			addr, err := netip.ParseAddr(h)
			all = append(all, hostEntry{e, h, strings.ReplaceAll(h, ".", "-"), err == nil && addr.Is4(), !strings.ContainsAny(h, ".:")})
		}
	}
	return all
}()

// hostName is a host as a resolver would take it, without port.
func hostName(host string) string {
	host = unpercent(host)
	host = strings.ToLower(norm.NFKC.String(host))
	host = strings.NewReplacer("。", ".", "．", ".", "｡", ".").Replace(host)
	if strings.HasPrefix(host, "[") {
		end := strings.IndexByte(host, ']')
		if end < 0 {
			return ""
		}
		host = host[1:end]
	} else if strings.Count(host, ":") == 1 {
		host, _, _ = strings.Cut(host, ":")
	}
	host, _, _ = strings.Cut(host, "%")
	host = strings.TrimRight(host, ".")
	if addr, err := netip.ParseAddr(host); err == nil {
		return embedded(addr).String()
	}
	if addr, ok := looseIPv4(host); ok {
		return addr.String()
	}
	return host
}

var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// embedded is the IPv4 address that an IPv6 one carries, or itself.
func embedded(a netip.Addr) netip.Addr {
	a = a.WithZone("").Unmap()
	if a.Is4() {
		return a
	}
	b := a.As16()
	compatible := slices.Equal(b[:12], make([]byte, 12)) && b[12] != 0
	sixToFour := b[0] == 0x20 && b[1] == 0x02
	switch {
	case nat64.Contains(a), compatible:
		return netip.AddrFrom4([4]byte(b[12:]))
	case sixToFour:
		return netip.AddrFrom4([4]byte(b[2:6]))
	}
	return a
}

// looseIPv4 reads an address as inet_aton does: one to four numbers, decimal,
// octal or hexadecimal, of which the last fills what is left.
func looseIPv4(s string) (netip.Addr, bool) {
	parts := strings.Split(s, ".")
	if len(parts) > 4 {
		return netip.Addr{}, false
	}
	var v uint64
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 0, 64)
		if strings.ContainsAny(p, "_bo") && !strings.HasPrefix(p, "0x") || err != nil && p != "08" && p != "09" {
			return netip.Addr{}, false
		}
		if err != nil {
			n, _ = strconv.ParseUint(p, 10, 64) // 08: some read it as 8
		}
		rest := 4 - i // bytes that are left
		if i < len(parts)-1 {
			v = v<<8 | n&0xff
			continue
		}
		v = v<<(8*rest) | n&(1<<(8*rest)-1)
	}
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}), true
}

// urlPort is ":port" of an URL, or "".
func urlPort(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Port() == "" {
		return ""
	}
	return ":" + u.Port()
}

// An urlPattern is a host and path: each component a glob, "**" any number of
// them.
type urlPattern struct {
	of    *exposure
	host  string
	parts []string
}

var urlPatterns = func() []urlPattern {
	var all []urlPattern
	for _, e := range catalogue {
		for _, text := range e.urls {
			host, p, _ := strings.Cut(text, "/")
			all = append(all, urlPattern{e, host, strings.Split(p, "/")})
		}
	}
	return all
}()

// urlEntries lists what host and path meet.
func urlEntries(host, p string) []*exposure {
	p, _, _ = strings.Cut(p, "?")
	p, _, _ = strings.Cut(p, "#")
	var parts []string
	for part := range strings.SplitSeq(strings.ToLower(unpercent(p)), "/") {
		switch part {
		case "", ".":
		case "..":
			parts = parts[:max(len(parts)-1, 0)]
		default:
			if parts = append(parts, part); len(parts) > 64 {
				return nil
			}
		}
	}
	bare, _, _ := strings.Cut(host, ":")
	var found []*exposure
	for _, u := range urlPatterns {
		if (globMatch(u.host, host) || globMatch(u.host, bare)) && pathMatch(u.parts, parts) {
			found = append(found, u.of)
		}
	}
	return found
}

// pathMatch matches components with a pattern that knows "*" and "**".
func pathMatch(pattern, parts []string) bool {
	reach := make([]bool, len(parts)+1)
	reach[0] = true
	for _, g := range pattern {
		next := make([]bool, len(parts)+1)
		for i := range reach {
			switch {
			case g == "**" && (reach[i] || i > 0 && next[i-1]):
				next[i] = true
			case g != "**" && i > 0 && reach[i-1] && globMatch(g, parts[i-1]):
				next[i] = true
			}
		}
		reach = next
	}
	return reach[len(parts)]
}

// apiPath lists what the path of an API by itself names: kubectl get --raw.
func apiPath(text string) []*exposure {
	if i := strings.Index(text, "/api/"); i < 0 && !strings.HasPrefix(text, "/v1/") && !strings.HasPrefix(text, "/apis/") {
		return nil
	} else if i > 0 {
		text = text[i:]
	}
	var found []*exposure
	for _, e := range urlEntries("", text) {
		if e.kind == "kubernetes" || e.kind == "vault" {
			found = append(found, e)
		}
	}
	return found
}

// unpercent decodes percent escapes, twice: proxies do.
func unpercent(s string) string {
	for range 2 {
		if !strings.Contains(s, "%") {
			break
		}
		var b strings.Builder
		for i := 0; i < len(s); i++ {
			if s[i] == '%' && i+2 < len(s) {
				if v, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
					b.WriteByte(byte(v))
					i += 2
					continue
				}
			}
			b.WriteByte(s[i])
		}
		s = b.String()
	}
	return s
}
