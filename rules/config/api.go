package config

import "path/filepath"

// API has the settings of the control interface, beside the path of its socket.
type API struct {
	Group          string // whose members may connect to the socket; empty: its owner alone
	Listen         string // address:port of the listener with TLS, empty: none
	TLSCert        string // path of its certificate, and of those that lead to a root
	TLSKey         string
	TokenFile      string // path of what clients must know
	MaxConnections int    // to the listener
}

// defaultAPI is what the keys of [api] are when they are left out.
var defaultAPI = API{MaxConnections: 64}

// apiKeys describe [api].
var apiKeys = []key[API]{
	{"group", "string", "", `"netadmin"`,
		"Group whose members may connect to the control socket, and so do everything: its mode is 0660 then, and 0600 without this key.",
		func(d *decoder, n *node, v *API) { d.name(n, &v.Group) }},
	{"listen", "address:port", "", `"192.0.2.1:9465"`,
		"Where the control interface is served over HTTPS, too; off without this key. It is the kernel's TCP: an address of the gateway's own interfaces needs [host].",
		func(d *decoder, n *node, v *API) { d.listen(n, &v.Listen) }},
	{"tls_cert", "path", "", `"/etc/culvert/api.crt"`,
		"Certificate of the listener in PEM, with those that lead to a root behind it. It is read again at each reload.",
		func(d *decoder, n *node, v *API) { d.absolute(n, &v.TLSCert) }},
	{"tls_key", "path", "", `"/etc/culvert/api.key"`,
		"Its private key in PEM.",
		func(d *decoder, n *node, v *API) { d.absolute(n, &v.TLSKey) }},
	{"token_file", "path", "", `"/etc/culvert/api.token"`,
		"File with the token that clients of the listener must know, 16 characters or more, which others may not read. It is read again at each reload.",
		func(d *decoder, n *node, v *API) { d.absolute(n, &v.TokenFile) }},
	{"max_connections", "integer 1-10000", "64", "8",
		"How many connections the listener has open at once; more are closed at once, and so are those beyond 20 a second.",
		func(d *decoder, n *node, v *API) { d.integer(n, &v.MaxConnections, 1, 10000) }},
}

// absolute reads a path that does not depend on a working directory.
func (d *decoder) absolute(n *node, v *string) {
	s, ok := d.text(n)
	switch {
	case !ok:
	case !filepath.IsAbs(s):
		d.errorf(n.at, "%q is not an absolute path: begin it with /", s)
	default:
		*v = s
	}
}

// decodeAPI reads [api]: a listener needs TLS and a token.
func (d *decoder) decodeAPI(c *Config) {
	single(d, "api", apiKeys, &c.API)
	n := d.root.table["api"]
	if n == nil || n.kind != kindTable {
		return
	}
	if listen := n.table["listen"]; listen != nil {
		for _, name := range []string{"tls_cert", "tls_key", "token_file"} {
			if n.table[name] == nil {
				d.errorf(listen.at, "listen: without TLS and a token everybody could change the gateway: add %s", name)
			}
		}
		return
	}
	for _, name := range []string{"tls_cert", "tls_key", "token_file", "max_connections"} {
		if key := n.table[name]; key != nil {
			d.errorf(key.key, "%s is for the listener: add listen, or leave it out", name)
		}
	}
}
