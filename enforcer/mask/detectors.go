package mask

// A detector knows the tokens of one issuer by their fixed prefix. The table
// is data: a name (policy and report use it), where the format is described,
// the prefixes, and what follows them.
type detector struct {
	name     string
	source   string
	prefixes []string
	parts    []part
	// check replaces parts where a format is more than a sequence of them. It
	// gets the offset behind the prefix and returns what to mask.
	check func(text []byte, start, body int) (from, to int, ok bool)
	loose bool // may follow any character; otherwise no letter or digit
	whole bool // never searched over the seams between strings
	probe int  // the three bytes of a prefix that are looked for first
}

// part is a literal, or min to max characters of a set.
type part struct {
	lit      string
	set      set
	min, max int
	digit    bool // at least one digit among them: an ordinary word has none
}

// set is a union of the classes below.
type set uint16

const (
	lowerHex set = 1 << iota // a-f
	lowerRest
	upperHex
	upperRest
	digit27 // base32 has the digits 2 to 7
	digit0189
	dash
	under
	dot
	equal
	plus
	slash
	tilde

	lower  = lowerHex | lowerRest
	upper  = upperHex | upperRest
	digit  = digit27 | digit0189
	alnum  = lower | upper | digit
	hexLow = lowerHex | digit
	word   = alnum | under
	b64url = word | dash
	b64std = alnum | plus | slash | equal
	dotted = b64url | dot
)

var classOf = func() (t [256]set) {
	for c := range t {
		switch {
		case c >= 'a' && c <= 'f':
			t[c] = lowerHex
		case c >= 'g' && c <= 'z':
			t[c] = lowerRest
		case c >= 'A' && c <= 'F':
			t[c] = upperHex
		case c >= 'G' && c <= 'Z':
			t[c] = upperRest
		case c >= '2' && c <= '7':
			t[c] = digit27
		case c >= '0' && c <= '9':
			t[c] = digit0189
		}
	}
	t['-'], t['_'], t['.'], t['='], t['+'], t['/'], t['~'] = dash, under, dot, equal, plus, slash, tilde
	return t
}()

func lit(s string) part { return part{lit: s} }
func run(s set, lengths ...int) part {
	return part{set: s, min: lengths[0], max: lengths[len(lengths)-1]}
}
func mixed(s set, lengths ...int) part { p := run(s, lengths...); p.digit = true; return p }
func after(p ...string) []string       { return p }
func parts(p ...part) []part           { return p }

// maxPart bounds the longest part of a token.
const maxPart = 16 << 10

// detectors lists the formats. To add one, add a line: the tests make their
// samples from it.
var detectors = []detector{
	{name: "age-secret-key", source: "https://age-encryption.org/v1", prefixes: after("AGE-SECRET-KEY-1"), parts: parts(run(upper|digit, 58))},
	{name: "anthropic", source: "https://docs.anthropic.com/en/api/overview", prefixes: after("sk-ant-"), parts: parts(mixed(b64url, 20, 255))},
	{name: "atlassian", source: "https://support.atlassian.com/atlassian-account/docs/manage-api-tokens-for-your-atlassian-account/", prefixes: after("ATATT3", "ATCTT3"), parts: parts(run(b64url|equal, 60, 400))},
	{name: "aws-access-key-id", source: "https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html", prefixes: after("AKIA", "ASIA", "ABIA", "ACCA"), parts: parts(run(upper|digit27, 16))},
	{name: "azure-storage-key", source: "https://learn.microsoft.com/azure/storage/common/storage-configure-connection-string", prefixes: after("AccountKey=", "SharedAccessKey="), parts: parts(run(alnum|plus|slash, 42, 86), lit("="))},
	{name: "buildkite", source: "https://buildkite.com/docs/platform/security/tokens", prefixes: after("bkua_", "bkct_", "bkaj_"), parts: parts(run(alnum, 40, 255))},
	{name: "circleci", source: "https://circleci.com/docs/managing-api-tokens/", prefixes: after("CCIPAT_", "CCIPRJ_"), parts: parts(run(alnum, 16, 32), lit("_"), run(hexLow, 40))},
	{name: "databricks", source: "https://docs.databricks.com/aws/en/dev-tools/auth/pat", prefixes: after("dapi"), parts: parts(run(hexLow, 32))},
	{name: "digitalocean", source: "https://docs.digitalocean.com/reference/api/create-personal-access-token/", prefixes: after("dop_v1_", "doo_v1_", "dor_v1_"), parts: parts(run(hexLow, 64))},
	{name: "docker", source: "https://docs.docker.com/security/access-tokens/", prefixes: after("dckr_pat_", "dckr_oat_"), parts: parts(run(b64url, 20, 64))},
	{name: "doppler", source: "https://docs.doppler.com/reference/auth-token-formats", prefixes: after("dp.pt.", "dp.st.", "dp.ct.", "dp.sa.", "dp.scim.", "dp.audit."), parts: parts(run(dotted, 40, 100))},
	{name: "figma", source: "https://www.figma.com/developers/api#access-tokens", prefixes: after("figd_", "figu_", "figo_"), parts: parts(run(b64url, 40, 64))},
	{name: "flyio", source: "https://fly.io/docs/security/tokens/", prefixes: after("fm1r_", "fm1a_", "fm2_"), parts: parts(run(b64std, 80, maxPart))},
	{name: "github", source: "https://github.blog/engineering/platform-security/behind-githubs-new-authentication-token-formats/", prefixes: after("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), parts: parts(run(alnum, 36, 255))},
	{name: "github-fine-grained", source: "https://docs.github.com/en/authentication/keeping-your-account-and-data-secure/about-authentication-to-github", prefixes: after("github_pat_"), parts: parts(run(word, 36, 255))},
	{name: "gitlab", source: "https://docs.gitlab.com/security/tokens/#token-prefixes", prefixes: after("glpat-", "gloas-", "gldt-", "glrt-", "glcbt-", "glptt-", "glft-", "glimt-", "glagent-", "glsoat-", "glffct-"), parts: parts(run(dotted, 20, 300))},
	{name: "google-api-key", source: "https://cloud.google.com/docs/authentication/api-keys", prefixes: after("AIza"), parts: parts(run(b64url, 35))},
	{name: "google-oauth-secret", source: "https://developers.google.com/identity/protocols/oauth2", prefixes: after("GOCSPX-"), parts: parts(run(b64url, 28))},
	{name: "google-oauth-token", source: "https://developers.google.com/identity/protocols/oauth2", prefixes: after("ya29."), parts: parts(run(dotted, 20, 2048))},
	{name: "grafana", source: "https://grafana.com/docs/grafana/latest/administration/service-accounts/", prefixes: after("glsa_"), parts: parts(run(alnum, 32), lit("_"), run(hexLow|upperHex, 8))},
	{name: "grafana-cloud", source: "https://grafana.com/docs/grafana-cloud/account-management/authentication-and-permissions/access-policies/", prefixes: after("glc_"), parts: parts(run(b64std, 32, 400))},
	{name: "groq", source: "https://console.groq.com/docs/quickstart", prefixes: after("gsk_"), parts: parts(run(alnum, 52))},
	{name: "hugging-face", source: "https://huggingface.co/docs/hub/security-tokens", prefixes: after("hf_"), parts: parts(run(alnum, 34, 40))},
	{name: "linear", source: "https://linear.app/developers/graphql", prefixes: after("lin_api_", "lin_oauth_"), parts: parts(run(alnum, 40, 64))},
	{name: "mailgun", source: "https://documentation.mailgun.com/docs/mailgun/api-reference/mg-auth", prefixes: after("key-"), parts: parts(run(hexLow, 32))},
	{name: "netlify", source: "https://docs.netlify.com/api/get-started/#authentication", prefixes: after("nfp_"), parts: parts(run(alnum, 36, 64))},
	{name: "new-relic", source: "https://docs.newrelic.com/docs/apis/intro-apis/new-relic-api-keys/", prefixes: after("NRAK-"), parts: parts(run(upper|digit, 27))},
	{name: "notion", source: "https://developers.notion.com/changelog", prefixes: after("ntn_"), parts: parts(run(alnum, 43, 64))},
	{name: "npm", source: "https://docs.npmjs.com/about-access-tokens", prefixes: after("npm_"), parts: parts(run(alnum, 36))},
	{name: "openai", source: "https://platform.openai.com/docs/api-reference/authentication", prefixes: after("sk-proj-", "sk-svcacct-", "sk-admin-"), parts: parts(mixed(b64url, 20, 300))},
	{name: "openai-legacy", source: "https://platform.openai.com/docs/api-reference/authentication", prefixes: after("sk-"), parts: parts(run(alnum, 20), lit("T3BlbkFJ"), run(alnum, 20))},
	{name: "openrouter", source: "https://openrouter.ai/docs/api-reference/authentication", prefixes: after("sk-or-v1-"), parts: parts(run(hexLow, 64))},
	{name: "perplexity", source: "https://docs.perplexity.ai/getting-started/quickstart", prefixes: after("pplx-"), parts: parts(run(alnum, 48, 56))},
	{name: "planetscale", source: "https://planetscale.com/docs/concepts/service-tokens", prefixes: after("pscale_tkn_", "pscale_pw_", "pscale_oauth_"), parts: parts(run(dotted, 32, 64))},
	{name: "postman", source: "https://learning.postman.com/docs/developer/postman-api/authentication/", prefixes: after("PMAK-"), parts: parts(run(hexLow, 24), lit("-"), run(hexLow, 34))},
	{name: "pulumi", source: "https://www.pulumi.com/docs/administration/access-identity/access-tokens/", prefixes: after("pul-"), parts: parts(run(hexLow, 40))},
	{name: "pypi", source: "https://pypi.org/help/#apitoken", prefixes: after("pypi-AgE"), parts: parts(run(b64url, 50, 1000))},
	{name: "replicate", source: "https://replicate.com/docs/topics/security/api-tokens", prefixes: after("r8_"), parts: parts(run(alnum, 37))},
	{name: "rubygems", source: "https://guides.rubygems.org/api-key-scopes/", prefixes: after("rubygems_"), parts: parts(run(hexLow, 48))},
	{name: "sendgrid", source: "https://www.twilio.com/docs/sendgrid/ui/account-and-settings/api-keys", prefixes: after("SG."), parts: parts(run(b64url, 22), lit("."), run(b64url, 43))},
	{name: "sentry", source: "https://docs.sentry.io/account/auth-tokens/", prefixes: after("sntryu_"), parts: parts(run(hexLow, 64))},
	{name: "sentry-org", source: "https://docs.sentry.io/account/auth-tokens/", prefixes: after("sntrys_"), parts: parts(run(b64std|under, 60, 500))},
	{name: "shopify", source: "https://shopify.dev/changelog/app-secret-key-length-has-increased", prefixes: after("shpat_", "shpss_", "shpca_", "shppa_"), parts: parts(run(hexLow|upperHex, 32))},
	{name: "slack", source: "https://docs.slack.dev/authentication/tokens", prefixes: after("xoxb-", "xoxp-", "xoxa-", "xoxr-", "xoxs-", "xoxc-", "xoxd-", "xoxe-", "xoxe.xoxp-", "xoxe.xoxb-", "xapp-"), parts: parts(mixed(b64url, 20, 400))},
	{name: "slack-webhook", source: "https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks/", prefixes: after("hooks.slack.com/services/", "hooks.slack.com/triggers/", "hooks.slack.com/workflows/"), parts: parts(run(alnum, 8, 16), lit("/"), run(alnum, 8, 20), lit("/"), run(alnum, 16, 48))},
	{name: "square", source: "https://developer.squareup.com/docs/build-basics/access-tokens", prefixes: after("sq0atp-", "sq0csp-"), parts: parts(run(b64url, 22, 43))},
	{name: "stripe", source: "https://docs.stripe.com/keys", prefixes: after("sk_live_", "sk_test_", "rk_live_", "rk_test_"), parts: parts(run(alnum, 16, 255))},
	{name: "stripe-webhook", source: "https://docs.stripe.com/webhooks", prefixes: after("whsec_"), parts: parts(run(b64std, 32, 80))},
	{name: "supabase", source: "https://supabase.com/docs/guides/api/api-keys", prefixes: after("sbp_", "sb_secret_"), parts: parts(run(word, 31, 64))},
	{name: "tailscale", source: "https://tailscale.com/kb/1277/key-prefixes", prefixes: after("tskey-"), parts: parts(mixed(b64url, 20, 100))},
	{name: "twilio-api-key", source: "https://www.twilio.com/docs/iam/api-keys", prefixes: after("SK0", "SK1", "SK2", "SK3", "SK4", "SK5", "SK6", "SK7", "SK8", "SK9", "SKa", "SKb", "SKc", "SKd", "SKe", "SKf"), parts: parts(run(hexLow, 31))},
	{name: "vault", source: "https://developer.hashicorp.com/vault/docs/concepts/tokens", prefixes: after("hvs.", "hvb.", "hvr."), parts: parts(run(b64url, 24, 500))},
	{name: "xai", source: "https://docs.x.ai/docs/overview", prefixes: after("xai-"), parts: parts(run(alnum, 80))},

	{name: "jwt", source: "https://www.rfc-editor.org/rfc/rfc7519", prefixes: after("eyJ"), parts: parts(run(b64url, 8, maxPart), lit(".eyJ"), run(b64url, 8, maxPart), lit("."), run(b64url, 16, maxPart))},
	{name: "bearer", source: "https://www.rfc-editor.org/rfc/rfc6750#section-2.1", prefixes: after("Bearer ", "bearer ", "BEARER "), parts: parts(mixed(dotted|b64std|tilde, 16, maxPart))},
	{name: "basic", source: "https://www.rfc-editor.org/rfc/rfc7617#section-2", prefixes: after("Basic ", "basic ", "BASIC "), check: checkBasic, whole: true},
	{name: "url-credentials", source: "https://www.rfc-editor.org/rfc/rfc3986#section-3.2.1", prefixes: after("://"), check: checkURL, loose: true, whole: true},
	{name: "private-key", source: "https://www.rfc-editor.org/rfc/rfc7468", prefixes: after("-----BEGIN "), check: checkPEM, loose: true, probe: 5},
}
