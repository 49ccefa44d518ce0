package mask

// keyFormats are key material and password hashes that carry their own mark.
var keyFormats = []detector{
	issued("age-secret-key", "AGE-SECRET-KEY-1", "UPPER{58}", "https://age-encryption.org/v1", entropy(0)),
	issued("age-secret-key-pq", "AGE-SECRET-KEY-PQ-1", "UPPER{58,200}", "https://age-encryption.org/v1"),
	issued("minisign-secret-key", "RWRTY0Iy", "std64{190,260}", "https://jedisct1.github.io/minisign/"),
	issued("nats-seed", "SUA SAA SOA SNA SCA", "base32{55}", "https://docs.nats.io/running-a-nats-service/configuration/securing_nats/auth_intro/nkey_auth", entropy(3.5)),
	issued("openssh-key-body", "b3BlbnNzaC1rZXktdjEA", "std64{60,16384}", "https://cvsweb.openbsd.org/src/usr.bin/ssh/PROTOCOL.key"),
	issued("bip32-private-key", "xprv", "alnum{107}", "https://github.com/bitcoin/bips/blob/master/bip-0032.mediawiki"),
	issued("secret-token-uri", "secret-token:", "token68{16,500}", "https://www.rfc-editor.org/rfc/rfc8959", withDigit),
	issued("bcrypt-hash", "$2a$ $2b$ $2x$ $2y$", "digit{2} $ crypt{53}", "https://manpages.debian.org/crypt.5"),
	issued("sha512-crypt-hash", "$6$", "crypt{1,16} $ crypt{86}", "https://manpages.debian.org/crypt.5"),
	issued("sha256-crypt-hash", "$5$", "crypt{1,16} $ crypt{43}", "https://manpages.debian.org/crypt.5"),
	issued("md5-crypt-hash", "$1$", "crypt{1,8} $ crypt{22}", "https://manpages.debian.org/crypt.5"),
	issued("yescrypt-hash", "$y$", "crypt{1,16} $ crypt{1,86} $ crypt{43}", "https://manpages.debian.org/crypt.5"),
	issued("argon2-hash", "$argon2id$v= $argon2i$v= $argon2d$v=", "digit{2} $m= digit{1,8} ,t= digit{1,4} ,p= digit{1,3} $ std64{11,128} $ std64{16,128}", "https://github.com/P-H-C/phc-string-format"),
	issued("scram-verifier", "SCRAM-SHA-256$", "digit{4,7} : std64{16,64} $ std64{44} : std64{44}", "https://www.postgresql.org/docs/current/catalog-pg-authid.html"),
	issued("django-hash", "pbkdf2_sha256$", "digit{4,8} $ alnum{8,64} $ std64{44}", "https://docs.djangoproject.com/en/stable/topics/auth/passwords/"),
	issued("ldap-hash", "{SSHA} {SHA} {SSHA256} {SSHA512}", "std64{28,200}", "https://www.rfc-editor.org/rfc/rfc2307"),
	issued("kerberos-hash", "$krb5asrep$23$ $krb5tgs$23$", "token68{1,200} : hex{32} $ hex{64,8192}", "https://hashcat.net/wiki/doku.php?id=example_hashes"),

	issued("jwt", "eyJ eyA ewo", "url64{8,16384} .e url64{8,16384} . url64{10,16384}", "https://www.rfc-editor.org/rfc/rfc7519"),
	issued("jwe", "eyJ eyA ewo", "url64{8,16384} . url64{0,16384} . url64{12,64} . url64{8,16384} . url64{20,24}", "https://www.rfc-editor.org/rfc/rfc7516"),
}
