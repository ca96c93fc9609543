package listeners

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestGuard(t *testing.T) {
	open := Guard{AllowedHosts: []string{"metrics.example.com"}}
	closed := Guard{Token: "secret"}
	for _, test := range []struct {
		name    string
		guard   Guard
		method  string
		path    string
		host    string
		headers string // name=value, separated by ;
		status  int
		code    string
	}{
		{"loopback address", open, "GET", "/metrics", "127.0.0.1:8127", "", 200, ""},
		{"any loopback address", open, "GET", "/metrics", "127.1.2.3", "", 200, ""},
		{"IPv6", open, "GET", "/metrics", "[::1]:8127", "", 200, ""},
		{"IPv6 without port", open, "GET", "/metrics", "[::1]", "", 200, ""},
		{"localhost", open, "GET", "/metrics", "LocalHost.:8127", "", 200, ""},
		{"allowed name", open, "GET", "/metrics", "Metrics.example.com:80", "", 200, ""},
		{"name that was rebound", open, "GET", "/metrics", "evil.example.com:8127", "", 421, "wrong_host"},
		{"name that looks like an address", open, "GET", "/metrics", "127.0.0.1.evil.example.com", "", 421, "wrong_host"},
		{"no host", open, "GET", "/metrics", "", "", 421, "wrong_host"},
		{"other address", open, "GET", "/metrics", "10.0.0.1:8127", "", 421, "wrong_host"},
		{"up for everybody", open, "GET", "/up", "10.0.0.1:8127", "Sec-Fetch-Site=cross-site", 200, ""},
		{"readiness has details", open, "GET", "/readyz", "10.0.0.1:8127", "", 421, "wrong_host"},
		{"page of another site writes", open, "POST", "/api", "127.0.0.1", "Origin=https://evil.example.com", 403, "cross_origin"},
		{"sandboxed page", open, "POST", "/api", "127.0.0.1", "Origin=null", 403, "cross_origin"},
		{"page of another site reads", open, "GET", "/api", "127.0.0.1", "Sec-Fetch-Site=cross-site", 403, "cross_origin"},
		{"page of another port reads", open, "GET", "/api", "localhost:8127", "Sec-Fetch-Site=same-site", 403, "cross_origin"},
		{"own page", open, "POST", "/api", "127.0.0.1:8127", "Sec-Fetch-Site=same-origin", 200, ""},
		{"typed address", open, "GET", "/", "127.0.0.1:8127", "Sec-Fetch-Site=none", 200, ""},
		{"no token", closed, "GET", "/metrics", "127.0.0.1", "", 401, "unauthorized"},
		{"empty token", closed, "GET", "/metrics", "127.0.0.1", "Authorization=Bearer ", 401, "unauthorized"},
		{"wrong token", closed, "GET", "/metrics", "127.0.0.1", "Authorization=Bearer secret2", 401, "unauthorized"},
		{"not a bearer", closed, "GET", "/metrics", "127.0.0.1", "Authorization=secret", 401, "unauthorized"},
		{"token", closed, "GET", "/metrics", "127.0.0.1", "Authorization=Bearer secret", 200, ""},
		{"token does not help a rebound name", closed, "GET", "/metrics", "evil.example.com", "Authorization=Bearer secret", 421, "wrong_host"},
		{"health needs no token", closed, "GET", "/readyz", "127.0.0.1", "", 200, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			reached := false
			handler := test.guard.Wrap(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }))
			r := httptest.NewRequest(test.method, "http://x"+test.path, nil)
			r.Host = test.host
			for h := range strings.SplitSeq(test.headers, ";") {
				if name, value, ok := strings.Cut(h, "="); ok {
					r.Header.Set(name, value)
				}
			}
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			if w.Code != test.status || reached != (test.status == 200) {
				t.Errorf("status %d, reached %v, want %d", w.Code, reached, test.status)
			}
			if body := w.Body.String(); test.code != "" && !strings.Contains(body, `"code":"`+test.code+`"`) {
				t.Errorf("body %s, want code %s", body, test.code)
			}
		})
	}
}
