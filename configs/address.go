package configs

import (
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// metadata are the places where clouds hand credentials to whoever asks from
// inside; all of 169.254.0.0/16 and fe80::/10 is refused beside them.
var metadata = []string{
	"metadata", "metadata.google.internal", "metadata.goog", // Google Cloud
	"100.100.100.200", // Alibaba Cloud
	"168.63.129.16",   // Azure
	"192.0.0.192",     // Oracle Cloud
	"fd00:ec2::254",   // AWS over IPv6
	"fd20:ce::254",    // Google Cloud over IPv6
}

// maxHost is how long a name can be in the DNS, in bytes, written with dots.
const maxHost = 253

var (
	hostForm = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
	// numberForm is a last label that resolvers take for an IPv4 address in
	// another notation, such as 2130706433 or 0x7f.1 (WHATWG URL, "ends in a
	// number").
	numberForm = regexp.MustCompile(`(^|\.)([0-9]+|0[xX][0-9A-Fa-f]*)$`)
)

// validHost takes a host name or an IP address without brackets.
func validHost(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return len(host) <= maxHost && hostForm.MatchString(host) && !numberForm.MatchString(strings.TrimSuffix(host, "."))
}

// loopback takes the name localhost and addresses. Other names are not looked
// up: what they mean can change after the check.
func loopback(host string) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		return a.IsLoopback() // also of an IPv4 address written as IPv6
	}
	return strings.EqualFold(host, "localhost")
}

func isMetadata(host string) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		a = a.WithZone("").Unmap()
		return a.IsLinkLocalUnicast() || slices.Contains(metadata, a.String())
	}
	return slices.Contains(metadata, strings.ToLower(strings.TrimSuffix(host, ".")))
}

// url checks the base URL of an upstream.
func (k *checker) url(path string, up *Upstream) {
	shown := k.show(path, bareURL(up.URL))
	if up.URL == "" {
		k.add(path, "has no value; write the service's address, like %s", DefaultFluxURL)
		return
	}
	u, err := url.Parse(up.URL)
	// The cause of a parse error can repeat a password, so it is left out.
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Opaque != "" {
		k.add(path, "%s is not an https URL; write it like %s", shown, DefaultFluxURL)
		return
	}
	host, port := u.Hostname(), u.Port()
	n, bad := parseInt(port)
	switch {
	case !validHost(host):
		k.add(path, "%s has no valid host name or address; write it like %s", shown, DefaultFluxURL)
	case port != "" && (bad != nil || n < 1 || n > 65535) || strings.HasSuffix(u.Host, ":"):
		k.add(path, "%s has no valid port; write 1 to 65535, or leave it out", shown)
	case isMetadata(host):
		k.add(path, "%s is a link-local or cloud metadata address, which is never an upstream; write the service's address", shown)
	case u.Scheme == "http" && !loopback(host) && !up.Insecure:
		k.add(path, "%s would send the key unencrypted; use https, or set insecure: true", shown)
	}
	switch {
	case u.User != nil:
		k.add(path, "%s has a user or password in it; take it out and use api_key", shown)
	case strings.ContainsAny(up.URL, "?#"):
		k.add(path, "%s has a query or fragment after it; take it out", shown)
	case strings.HasSuffix(strings.TrimRight(u.Path, "/"), "/api/v1"):
		k.add(path, "%s ends in /api/v1, which is added by itself; leave that out", shown)
	}
}

// bareURL is a URL for a message: without what may be a secret.
func bareURL(s string) string {
	if i := strings.IndexAny(s, "?#"); i >= 0 {
		s = s[:i]
	}
	if i := strings.LastIndex(s, "@"); i >= 0 {
		scheme, _, ok := strings.Cut(s[:i], "//")
		if !ok {
			scheme = ""
		} else {
			scheme += "//"
		}
		s = scheme + mask + s[i:]
	}
	return s
}
