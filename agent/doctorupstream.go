package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"time"

	"sluice/configs"
)

// Bounds of a check of an upstream, and of what is worth saying about it.
const (
	checkTimeout = 20 * time.Second
	certSoon     = 14 * 24 * time.Hour
	clockOff     = 30 * time.Second
	clockWrong   = 10 * time.Minute // samples with a time further ahead are refused
)

// checkClock asks the kernel; what an upstream's clock says comes with its answer.
func (d *doctor) checkClock() {
	synced, known := clockSynced()
	switch {
	case !known:
		d.find(skipped, "clock", "whether it is kept right is not known", "")
	case synced:
		d.find(healthy, "clock", "it is kept right (adjtimex)", "")
	default:
		d.find(warning, "clock", "nobody keeps it right, or nobody tells the kernel so (adjtimex)", "run chronyd, systemd-timesyncd or ntpd")
	}
}

// checkUpstream asks for the list of metrics with the agent's key, of a DataCat for a
// session that does not exist: that passes name, connection, certificate and key, tells
// whether batches in doubt can be looked for, and counts against the 60 queries a minute,
// not against the batches.
func (d *doctor) checkUpstream(ctx context.Context, u *configs.Upstream) {
	what := "upstream " + u.Name
	if d.status != nil {
		for i := range d.status.Upstreams {
			if p := &d.status.Upstreams[i]; p.Name == u.Name {
				d.checkDelivery(what, p)
			}
		}
	}
	target, err := url.Parse(u.URL)
	if err != nil {
		return // the configuration says so
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	if net.ParseIP(target.Hostname()) == nil {
		began := time.Now()
		addrs, err := net.DefaultResolver.LookupHost(ctx, target.Hostname())
		if err != nil {
			d.find(failing, what, "its name "+target.Hostname()+" cannot be looked up: "+err.Error(), "correct upstreams[].url, or /etc/resolv.conf")
			return
		}
		d.find(healthy, what, fmt.Sprintf("its name %s has %d addresses, found in %s", target.Hostname(), len(addrs), time.Since(began).Round(time.Millisecond)), "")
	}
	if !d.readAll {
		d.find(skipped, what, "its key was not read, so it is not asked", "correct the configuration, or run doctor as the agent's user")
		return
	}
	d.checkKey(ctx, what, u)
}

// checkDelivery repeats what the agent knows itself.
func (d *doctor) checkDelivery(what string, p *upstreamPage) {
	if p.State != "ok" {
		d.find(failing, what, fmt.Sprintf("the agent does not deliver to it (%s): %s", p.State, p.LastError), "")
	}
	if p.Backlog.Windows > 0 {
		d.find(warning, what, fmt.Sprintf("%s windows are backlog, caught up in about %s", number(p.Backlog.Windows), span(seconds(p.CatchUp))), "")
	}
	if p.DeadLetters > 0 {
		d.find(warning, what, number(p.DeadLetters)+" items were refused for good", "sluice spool dead shows them with the upstream's answer")
	}
}

func (d *doctor) unreachable(what string, err error) {
	remedy := "is it down, is a firewall or a proxy (HTTPS_PROXY) between? nothing is lost meanwhile"
	var cert *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &cert):
		remedy = "the certificate is not one this host trusts: install the authority's, or correct the address; a proxy that opens TLS has one of its own"
	case errors.As(err, &record):
		remedy = "it does not speak TLS there: correct scheme and port of upstreams[].url"
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	d.find(failing, what, "it cannot be reached: "+err.Error(), remedy)
}

func (d *doctor) certificate(what string, state *tls.ConnectionState) {
	if state == nil || len(state.PeerCertificates) == 0 {
		return
	}
	ends := state.PeerCertificates[0].NotAfter
	if left := time.Until(ends); left < certSoon {
		d.find(warning, what, fmt.Sprintf("its certificate ends in %s", span(left)), "renew it, or tell who runs the upstream")
	}
}

func (d *doctor) checkKey(ctx context.Context, what string, u *configs.Upstream) {
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, DisableCompression: true}
	c := http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	var connected time.Duration
	began := time.Now()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected = time.Since(began) }})
	path := "/api/v1/metrics"
	if u.Type == configs.DataCat {
		path = "/api/sessions/sluice-doctor"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.URL+path, nil)
	if err != nil {
		d.find(failing, what, err.Error(), "")
		return
	}
	if key := u.Key.Reveal(); key != "" { // a DataCat need not have one
		req.Header.Set("Authorization", "Bearer "+key)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "sluice/"+version)
	resp, err := c.Do(req)
	if err != nil {
		d.unreachable(what, err)
		return
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	d.find(healthy, what, fmt.Sprintf("connected in %s, answered in %s", connected.Round(10*time.Microsecond), time.Since(began).Round(10*time.Microsecond)), "")
	d.certificate(what, resp.TLS)
	d.checkDate(what, resp.Header.Get("Date"))
	switch status := resp.StatusCode; {
	case u.Type == configs.DataCat && (status == http.StatusOK || status == http.StatusNotFound):
		d.find(healthy, what, "it takes the key; no DataCat lets what was delivered be read back", "")
	case status == http.StatusOK:
		d.find(healthy, what, "it takes the key, and lets what was delivered be read back", "")
	case status == http.StatusUnauthorized:
		d.find(failing, what, "it does not know the key ("+resp.Status+")", "correct upstreams[].api_key or its file; the agent notices by itself. Nothing is lost meanwhile")
	case status == http.StatusForbidden && u.Type == configs.DataCat:
		d.find(failing, what, "it does not take the key ("+resp.Status+")", "correct upstreams[].api_key or its file; the agent notices by itself. Nothing is lost meanwhile")
	case status == http.StatusForbidden, status == http.StatusNotFound:
		d.find(warning, what, "what was delivered cannot be read back with this key ("+resp.Status+"), so batches in doubt cannot be looked for",
			"let the key read, or choose what happens to them: upstreams[].unverified")
	case status/100 == 3:
		d.find(failing, what, "it redirects to "+resp.Header.Get("Location")+", which is not followed with a key", "write that address into upstreams[].url if it is the right one")
	default:
		d.find(failing, what, "it answers "+resp.Status, "ask who runs it; nothing is lost meanwhile")
	}
}

func (d *doctor) checkDate(what, date string) {
	there, err := http.ParseTime(date)
	if err != nil {
		return
	}
	off := time.Until(there).Round(time.Second)
	ahead := "behind"
	if off < 0 {
		off, ahead = -off, "ahead of"
	}
	text := fmt.Sprintf("this host's clock is %s %s that of %s", span(off), ahead, what)
	switch {
	case off > clockWrong:
		d.find(failing, "clock", text, "set it: metrics are stored at wrong times, and batches in doubt are not found")
	case off > clockOff:
		d.find(warning, "clock", text, "run chronyd, systemd-timesyncd or ntpd")
	default:
		d.find(healthy, "clock", fmt.Sprintf("within %s of that of %s", clockOff, what), "")
	}
}
