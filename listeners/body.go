package listeners

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
)

const (
	// MaxBody is the longest body of a request in bytes, as it arrives and, if it
	// is compressed, as it is then.
	MaxBody = 4 << 20

	// A body's first smallBody bytes are free. What is longer takes from the
	// budget that all requests share, so that many large bodies at once make the
	// agent busy (429) and not large.
	smallBody  = 64 << 10
	bodyBudget = 48 << 20

	bodyKept = 256 << 10 // capacity of a buffer that is kept for the next request
)

// A budget is bytes that requests share.
type budget struct{ left atomic.Int64 }

func (b *budget) take(n int) bool {
	if b.left.Add(-int64(n)) >= 0 {
		return true
	}
	b.left.Add(int64(n))
	return false
}

// A buffer grows with the body that is read into it, within the budget.
type buffer struct {
	b     []byte
	taken int // from the budget
}

// readFrom replaces the content by all of r. It answers Accepted, BodyTooLarge,
// Overloaded, or the error of r.
func (b *buffer) readFrom(r io.Reader, shared *budget) (Code, error) {
	b.b = b.b[:0]
	for {
		if len(b.b) == cap(b.b) && !b.grow(shared) {
			return Overloaded, nil
		}
		n, err := r.Read(b.b[len(b.b):cap(b.b)])
		b.b = b.b[:len(b.b)+n]
		switch {
		case len(b.b) > MaxBody:
			return BodyTooLarge, nil
		case err == io.EOF:
			return Accepted, nil
		case err != nil:
			return Accepted, err
		}
	}
}

// grow doubles the buffer, up to a byte more than the limit, so that what is too
// long shows.
func (b *buffer) grow(shared *budget) bool {
	size := max(2*cap(b.b), 4096)
	if size >= MaxBody {
		size = MaxBody + 1
	}
	return b.resize(size, shared)
}

// resize makes room for size bytes in all.
func (b *buffer) resize(size int, shared *budget) bool {
	if size > smallBody {
		if !shared.take(size - b.taken) {
			return false
		}
		b.taken = size
	}
	b.b = append(make([]byte, 0, size), b.b...)
	return true
}

// reset gives back what was taken, and memory that is too much to keep.
func (b *buffer) reset(shared *budget) {
	shared.left.Add(int64(b.taken))
	b.taken = 0
	if cap(b.b) > smallBody {
		b.b = nil
	}
}

// isJSON answers whether a Content-Type is one of JSON, or none. Others are what
// forms and scripts of web pages can send without asking.
func isJSON(contentType string) bool {
	media, _, _ := strings.Cut(contentType, ";")
	media = strings.ToLower(strings.TrimSpace(media))
	return media == "" || media == "application/json" || media == "text/json" ||
		strings.HasPrefix(media, "application/") && strings.HasSuffix(media, "+json")
}

// read takes the body of a request into x.json.
func (x *exchange) read(r *http.Request) Code {
	compressed := false
	switch strings.ToLower(r.Header.Get("Content-Encoding")) {
	case "", "identity":
	case "gzip", "x-gzip":
		compressed = true
	default:
		return UnsupportedMediaType
	}
	if !isJSON(r.Header.Get("Content-Type")) {
		return UnsupportedMediaType
	}
	if r.ContentLength > MaxBody {
		return BodyTooLarge
	}
	c := connOf(r)
	c.wait()
	code, err := x.body.readFrom(r.Body, &x.api.bodies)
	switch {
	case err != nil, !c.work():
		return BodyTimeout
	case code != Accepted:
		return code
	}
	x.json = x.body.b
	if compressed {
		return x.inflate()
	}
	return Accepted
}

// likelyBody is how long bodies commonly are once they are inflated.
const likelyBody = 512 << 10

// inflate replaces x.json by what it holds compressed. What is longer than bodies
// commonly are is measured before there is memory for it: a bomb takes none.
func (x *exchange) inflate() Code {
	if len(x.json) == 0 { // no body is no gzip, and no fault
		return Accepted
	}
	x.compressed.Reset(x.json)
	err := x.gzip.Reset(&x.compressed)
	if err != nil {
		return InvalidJSON
	}
	code, err := x.plain.readFrom(io.LimitReader(&x.gzip, likelyBody), &x.api.bodies)
	if err == nil && code == Accepted && len(x.plain.b) == likelyBody {
		rest, bad := io.Copy(io.Discard, io.LimitReader(&x.gzip, MaxBody-likelyBody+1))
		switch {
		case bad != nil:
			return InvalidJSON
		case rest > MaxBody-likelyBody:
			return BodyTooLarge
		}
		x.plain.b = x.plain.b[:0]
		if !x.plain.resize(likelyBody+int(rest)+1, &x.api.bodies) { // and one to meet the end in
			return Overloaded
		}
		x.compressed.Reset(x.json)
		x.gzip.Reset(&x.compressed) // went well before
		code, err = x.plain.readFrom(&x.gzip, &x.api.bodies)
	}
	if err != nil {
		return InvalidJSON
	}
	x.json = x.plain.b
	return code
}

// byteOrderMark may stand before a text in UTF-8; some Windows programs write it.
var byteOrderMark = []byte("\xEF\xBB\xBF")

func withoutMark(b []byte) []byte { return bytes.TrimPrefix(b, byteOrderMark) }
