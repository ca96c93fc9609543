package listeners

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// A Guard keeps web pages and strangers away from the HTTP listener. A page
// that the user of this host visits can make the browser send requests to
// loopback addresses, and a name that the page's owner controls can be made to
// lead there (DNS rebinding); neither gets further than this. What remains, a
// form without any header of its own, fails at the content type (see API).
type Guard struct {
	// AllowedHosts are names beside loopback ones that the Host header may have,
	// in lower case, without port.
	AllowedHosts []string
	// Token must come as "Authorization: Bearer <token>" when it is not empty.
	Token string
}

// openPaths are free of the guard: they tell no more than that an agent is
// there, and SDKs ask for them by whatever name they were given. keylessPaths
// need no token, for probes have none.
var (
	openPaths    = []string{"/up", "/health", "/flux/up", "/pulse/up"}
	keylessPaths = []string{"/healthz", "/readyz"}
)

// Wrap puts the guard in front of next.
func (g Guard) Wrap(next http.Handler) http.Handler {
	sites := http.NewCrossOriginProtection()
	token := sha256.Sum256([]byte(g.Token)) // equal lengths, whatever was sent
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if slices.Contains(openPaths, r.URL.Path) {
			next.ServeHTTP(w, r)
			return
		}
		if !overUnix(r) && !g.hostAllowed(r.Host) {
			refuse(w, r, http.StatusMisdirectedRequest, "wrong_host",
				"this agent answers to localhost and addresses of the loopback interface; add other names to listen.allowed_hosts")
			return
		}
		// Sec-Fetch-Site is looked at for reads, too: CrossOriginProtection lets
		// those through, and what is read here is nobody else's business.
		site := r.Header.Get("Sec-Fetch-Site")
		if err := sites.Check(r); err != nil || site == "cross-site" || site == "same-site" {
			refuse(w, r, http.StatusForbidden, "cross_origin", "requests that a page of another site causes are refused")
			return
		}
		if g.Token != "" && !slices.Contains(keylessPaths, r.URL.Path) {
			sent, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
			sum := sha256.Sum256([]byte(sent))
			if !ok || subtle.ConstantTimeCompare(sum[:], token[:]) != 1 {
				w.Header().Set("WWW-Authenticate", "Bearer")
				refuse(w, r, http.StatusUnauthorized, "unauthorized", "send Authorization: Bearer with the token of listen.http_token_file")
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// overUnix answers whether a request came over a Unix socket, which no browser
// opens, so that its Host says nothing.
func overUnix(r *http.Request) bool {
	_, ok := r.Context().Value(http.LocalAddrContextKey).(*net.UnixAddr)
	return ok
}

func (g Guard) hostAllowed(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.Trim(hostport, "[]")
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if addr, err := netip.ParseAddr(host); err == nil && addr.IsLoopback() {
		return true
	}
	return host == "localhost" || slices.Contains(g.AllowedHosts, host)
}

// refuse answers with an error in the form that the dialect of the path uses:
// DataCat's clients get a line of text, everybody else what HTTPError writes.
func refuse(w http.ResponseWriter, r *http.Request, status int, code, text string) {
	if !isDataCat(r.URL.Path) {
		HTTPError(w, status, code, text)
		return
	}
	if status == http.StatusUnauthorized {
		text = "Unauthorized"
	}
	http.Error(w, text, status)
}

// HTTPError answers with an error in the one form that all of the local API
// but the paths of DataCat uses: {"error": text, "code": code}.
func HTTPError(w http.ResponseWriter, status int, code, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]string{"error": text, "code": code})
}
