package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"

	"sluice/configs"
	"sluice/listeners"
)

const (
	// passTimeout is how long a call that is passed on may wait for its answer's
	// head, maxPassed how much of an answer is read where it is read as a whole.
	passTimeout = 30 * time.Second
	maxPassed   = listeners.MaxBody
)

// newPassing makes the transport of calls that only an upstream can answer. A
// program waits for each, so unlike the forwarder's its connections are kept for
// a while.
func newPassing() *http.Transport {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		TLSHandshakeTimeout:    5 * time.Second,
		ResponseHeaderTimeout:  passTimeout,
		IdleConnTimeout:        10 * time.Second,
		MaxIdleConnsPerHost:    4,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true,
	}
}

// upstream returns the first upstream of a type, or nil.
func (a *agent) upstream(typ string) *configs.Upstream {
	all := a.now().config.Upstreams
	for i := range all {
		if all[i].Type == typ {
			return &all[i]
		}
	}
	return nil
}

// provision passes a call for a project and its keys to the upstream it is meant
// for: Flux's body has an environment, Pulse's a name alone. The caller shows the
// master key, which is not the agent's; so that header is passed on, and the
// agent's own key is not.
func (a *agent) provision(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body) // at most listeners.MaxBody
	if err != nil {
		listeners.HTTPError(w, http.StatusRequestEntityTooLarge, "body_too_large", "the body is over 4 MiB or was cut off")
		return
	}
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	var asked struct {
		Environment *string `json:"environment"`
	}
	json.Unmarshal(body, &asked) // what it is not good for, the upstream tells
	flux, pulse := a.upstream(configs.Flux), a.upstream(configs.Pulse)
	to := pulse
	switch {
	case strings.HasPrefix(r.URL.Path, "/flux/"), asked.Environment != nil, r.URL.Query().Has("environment"):
		to = flux
	case strings.HasPrefix(r.URL.Path, "/pulse/"), r.Method == http.MethodPost:
	case flux != nil: // a look-up by name alone does not say whose it is
		to = flux
	}
	if to == nil {
		unavailable(w, r, nil)
		return
	}
	a.pass(w, r, to, "X-Master-Key", r.Header.Get("X-Master-Key"))
}

// passPulse passes on what Pulse's programs send beside metrics.
func (a *agent) passPulse(w http.ResponseWriter, r *http.Request) {
	to := a.upstream(configs.Pulse)
	if to == nil {
		listeners.HTTPError(w, http.StatusNotFound, "not_found", "there is nothing at this path without an upstream of type pulse")
		return
	}
	a.pass(w, r, to, "Authorization", "Bearer "+to.Key.Reveal())
}

func unavailable(w http.ResponseWriter, _ *http.Request, _ error) {
	listeners.HTTPError(w, http.StatusServiceUnavailable, "unavailable", "this needs an upstream, which is not configured or away")
}

// pass passes a call on to an upstream as it came, status and body of the answer
// likewise, but for headers: only those that say what the body is go along, with
// one that holds a key. A key in the query is taken out.
func (a *agent) pass(w http.ResponseWriter, r *http.Request, to *configs.Upstream, name, key string) {
	base, err := url.Parse(to.URL)
	if err != nil { // configs has checked it
		unavailable(w, r, err)
		return
	}
	proxy := httputil.ReverseProxy{
		Transport:     a.passing,
		FlushInterval: -1,
		Rewrite: func(p *httputil.ProxyRequest) {
			path := strings.TrimPrefix(strings.TrimPrefix(p.In.URL.Path, "/flux"), "/pulse")
			query := p.In.URL.Query()
			query.Del("api_key")
			p.Out.URL, p.Out.Host = base.JoinPath(path), ""
			p.Out.URL.Path = "/" + strings.TrimPrefix(p.Out.URL.Path, "/") // JoinPath leaves it relative where base has none
			p.Out.URL.RawQuery = query.Encode()
			p.Out.Header = http.Header{"User-Agent": {"sluice/" + version}}
			copyHeader(p.Out.Header, p.In.Header, "Content-Type", "Content-Encoding", "Accept")
			if key != "" {
				p.Out.Header.Set(name, key)
			}
		},
		ModifyResponse: func(resp *http.Response) error {
			all := resp.Header
			resp.Header = http.Header{}
			copyHeader(resp.Header, all, "Content-Type", "Content-Encoding", "Retry-After")
			return nil
		},
		ErrorHandler: unavailable,
	}
	proxy.ServeHTTP(w, r)
}

func copyHeader(to, from http.Header, names ...string) {
	for _, name := range names {
		if v := from.Get(name); v != "" {
			to.Set(name, v)
		}
	}
}

// dataCat answers how to make calls to a DataCat server, if one is configured.
func (a *agent) dataCat() listeners.DataCatUpstream {
	to := a.upstream(configs.DataCat)
	if to == nil {
		return nil
	}
	return func(ctx context.Context, method, path string, body []byte) (status int, answer []byte, err error) {
		ctx, cancel := context.WithTimeout(ctx, passTimeout)
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(to.URL, "/")+path, bytes.NewReader(body))
		if err != nil {
			return 0, nil, err
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Accept", "application/json")
		r.Header.Set("User-Agent", "sluice/"+version)
		r.Header.Set("Authorization", "Bearer "+to.Key.Reveal())
		resp, err := a.passing.RoundTrip(r) // which follows no redirect
		if err != nil {
			return 0, nil, err
		}
		defer resp.Body.Close()
		answer, err = io.ReadAll(io.LimitReader(resp.Body, maxPassed))
		return resp.StatusCode, answer, err
	}
}
