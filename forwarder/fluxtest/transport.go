package fluxtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"strconv"
	"sync"
	"syscall"
)

// Transport returns a RoundTripper that serves requests with h, in the process and
// without a socket, so that it runs in a testing/synctest bubble. Every request is as
// on a connection of its own. The faults of a Server's Handler come out as they do from
// an http.Transport: a refused dial as ECONNREFUSED, a cut connection as io.EOF, a
// reset as ECONNRESET, each in a *net.OpError where a socket would have one, and the
// httptrace hooks GetConn, ConnectStart, ConnectDone, GotConn, WroteHeaders,
// WroteRequest and GotFirstResponseByte are called.
//
// A request's body is read whole before the handler runs, as a socket's buffer would
// take it. The handler runs on a goroutine of its own, which ends when the response
// body is read to its end or closed, or the request's context ends.
func Transport(h http.Handler) http.RoundTripper { return transport{h} }

type transport struct{ h http.Handler }

var loopback = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80}

func (t transport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	var body []byte
	if req.Body != nil {
		var err error
		body, err = io.ReadAll(req.Body)
		req.Body.Close()
		if err != nil {
			return nil, err
		}
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	trace := httptrace.ContextClientTrace(ctx)
	if trace == nil {
		trace = &httptrace.ClientTrace{}
	}
	if err := t.dial(trace, req); err != nil {
		return nil, err
	}
	if trace.WroteHeaders != nil {
		trace.WroteHeaders()
	}
	if trace.WroteRequest != nil {
		trace.WroteRequest(httptrace.WroteRequestInfo{})
	}
	srvCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	pr, pw := io.Pipe()
	stop := context.AfterFunc(ctx, func() {
		cancel()
		pr.CloseWithError(context.Cause(ctx)) // frees a handler in the midst of its answer
	})
	w := &pipeWriter{header: http.Header{}, pw: pw, ready: make(chan struct{})}
	go func() {
		defer stop()
		defer func() {
			switch r := recover(); r {
			case nil:
				w.finish()
			case http.ErrAbortHandler: // as http.Server has it
				w.cut(false)
			default:
				panic(r)
			}
		}()
		t.h.ServeHTTP(w, incoming(srvCtx, req, body))
	}()
	select {
	case <-w.ready:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if w.err != nil {
		cancel()
		if err := context.Cause(ctx); err != nil {
			return nil, err // the handler saw the client leave before we did
		}
		return nil, w.err
	}
	if trace.GotFirstResponseByte != nil {
		trace.GotFirstResponseByte()
	}
	return response(req, w, &responseBody{pr, ctx, cancel}), nil
}

// dial calls the hooks of connecting, and refuses where the server does.
func (t transport) dial(trace *httptrace.ClientTrace, req *http.Request) error {
	addr := req.URL.Host
	if trace.GetConn != nil {
		trace.GetConn(addr)
	}
	if trace.ConnectStart != nil {
		trace.ConnectStart("tcp", addr)
	}
	var err error
	if h, ok := t.h.(interface{ refusing() bool }); ok && h.refusing() {
		err = &net.OpError{Op: "dial", Net: "tcp", Addr: loopback, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	}
	if trace.ConnectDone != nil {
		trace.ConnectDone("tcp", addr, err)
	}
	if err == nil && trace.GotConn != nil {
		trace.GotConn(httptrace.GotConnInfo{})
	}
	return err
}

// incoming is the request as the server sees it.
func incoming(ctx context.Context, req *http.Request, body []byte) *http.Request {
	in := req.Clone(ctx)
	in.Body = io.NopCloser(bytes.NewReader(body))
	in.ContentLength = int64(len(body))
	in.RequestURI = in.URL.RequestURI()
	in.RemoteAddr = "127.0.0.1:1"
	if in.Host == "" {
		in.Host = in.URL.Host
	}
	if _, ok := in.Header["User-Agent"]; !ok {
		if in.Header == nil {
			in.Header = http.Header{}
		}
		in.Header.Set("User-Agent", "Go-http-client/1.1") // what http.Transport sends
	}
	return in
}

func response(req *http.Request, w *pipeWriter, body io.ReadCloser) *http.Response {
	resp := &http.Response{
		Status:     strconv.Itoa(w.status) + " " + http.StatusText(w.status),
		StatusCode: w.status,
		Proto:      "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.sent, Body: body, ContentLength: -1, Request: req,
	}
	if n, err := strconv.ParseInt(w.sent.Get("Content-Length"), 10, 64); err == nil {
		resp.ContentLength = n
	}
	return resp
}

// responseBody ends the handler's context when it is closed.
type responseBody struct {
	*io.PipeReader
	ctx    context.Context // of the request
	cancel context.CancelFunc
}

// Read gives the context's error where that has ended the answer.
func (b *responseBody) Read(p []byte) (int, error) {
	n, err := b.PipeReader.Read(p)
	if cause := context.Cause(b.ctx); cause != nil && err != nil && err != io.EOF {
		err = cause
	}
	return n, err
}

func (b *responseBody) Close() error {
	b.cancel()
	return b.PipeReader.Close()
}

// pipeWriter is the handler's side. Only the handler's goroutine calls its methods;
// the client's may look at sent, status and err once ready is closed.
type pipeWriter struct {
	header http.Header
	pw     *io.PipeWriter
	once   sync.Once
	ready  chan struct{}

	sent   http.Header
	status int
	err    error // in place of a response
}

func (w *pipeWriter) Header() http.Header { return w.header }

func (w *pipeWriter) WriteHeader(status int) {
	w.once.Do(func() {
		w.status, w.sent = status, maps.Clone(w.header)
		close(w.ready)
	})
}

func (w *pipeWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.pw.Write(p)
}

// Flush has nothing to do: nothing is buffered.
func (w *pipeWriter) Flush() { w.WriteHeader(http.StatusOK) }

// cut ends the call as a closed connection does: without a response, or within it.
func (w *pipeWriter) cut(reset bool) {
	err := io.EOF
	if reset {
		err = &net.OpError{Op: "read", Net: "tcp", Addr: loopback, Err: os.NewSyscallError("read", syscall.ECONNRESET)}
	}
	w.once.Do(func() {
		w.err = err
		close(w.ready)
	})
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	w.pw.CloseWithError(err)
}

func (w *pipeWriter) finish() {
	w.WriteHeader(http.StatusOK)
	w.pw.Close()
}
