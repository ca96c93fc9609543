package forwarder

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"
)

// maxAnswer is how much of an answer is read: of its head, and of its body.
// Answers to batches are below 100 bytes and error pages a few kilobytes.
const maxAnswer = 64 << 10

// newTransport makes connections that serve one request each. At ten requests
// a minute a handshake costs nothing, and a connection that the other side has
// closed while it was idle, one more way for a request to be in doubt, cannot
// happen.
func newTransport(timeout time.Duration) http.RoundTripper {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout:    10 * time.Second,
		ResponseHeaderTimeout:  timeout,
		DisableKeepAlives:      true,
		MaxResponseHeaderBytes: maxAnswer,
		DisableCompression:     true, // 64 KiB of a compressed answer can be 64 MiB
	}
}

// roundTrip makes one request. It takes no longer than the timeout for the
// answer's head and as much again for everything else.
func (f *Forwarder) roundTrip(ctx context.Context, req *http.Request) outcome {
	ctx, cancel := context.WithTimeout(ctx, 2*f.options.Timeout)
	defer cancel()
	var wrote atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteHeaderField: func(string, []string) { wrote.Store(true) },
		WroteHeaders:     func() { wrote.Store(true) },
	})
	resp, err := f.client.Do(req.WithContext(ctx))
	if err != nil {
		return outcome{err: err, wrote: wrote.Load()}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil && resp.StatusCode < 300 {
		return outcome{err: err, wrote: true} // a success that cannot be read says nothing
	}
	return outcome{status: resp.StatusCode, header: resp.Header, body: body, wrote: true}
}
