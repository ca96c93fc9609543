package listeners

import (
	"bytes"
	"compress/gzip"
	"net/http"
	"runtime"
	"strings"
	"testing"
)

// TestContentTypes is the first rule of "HTTP: common rules". What a form or a
// script of a web page can send without asking is not taken.
func TestContentTypes(t *testing.T) {
	const item = `{"name":"a","type":"counter"}`
	for _, test := range []struct {
		header, body string
		status       int
		code         string
	}{
		{"Content-Type=application/json", item, 201, ""},
		{"Content-Type=Application/JSON; charset=utf-8", item, 201, ""},
		{"Content-Type=application/vnd.api+json", item, 201, ""},
		{"Content-Type=text/json", item, 201, ""},
		{"Content-Type=", item, 201, ""},
		{"Content-Type=application/x-www-form-urlencoded", item, 415, "unsupported_media_type"},
		{"Content-Type=text/plain", item, 415, "unsupported_media_type"},
		{"Content-Type=text/plain; x=application/json", item, 415, "unsupported_media_type"},
		{"Content-Type=multipart/form-data; boundary=x", item, 415, "unsupported_media_type"},
		{"Content-Type=image/svg+json", item, 415, "unsupported_media_type"},
		{"Content-Encoding=identity", item, 201, ""},
		{"Content-Encoding=gzip", string(zipped(t, []byte(item))), 201, ""},
		{"Content-Encoding=X-GZIP", string(zipped(t, []byte(item))), 201, ""},
		{"Content-Encoding=gzip", string(zipped(t, []byte(item[:9]))) + string(zipped(t, []byte(item[9:]))), 201, ""}, // RFC 1952 allows several members
		{"Content-Encoding=br", item, 415, "unsupported_media_type"},
		{"Content-Encoding=gzip, gzip", item, 415, "unsupported_media_type"},
		{"Content-Encoding=gzip", item, 400, "invalid_json"},
		{"Content-Encoding=gzip", string(zipped(t, []byte(item)))[:30], 400, "invalid_json"},
		{"Content-Encoding=gzip", string(zipped(t, []byte(item))) + "x", 400, "invalid_json"},
		{"Content-Encoding=gzip", "", 400, "invalid_json"},
	} {
		a := newAPITest(t, APIOptions{})
		status, answer, header := a.do("POST", "/api/v1/metrics", test.body, test.header)
		if test.code == "" {
			if status != test.status {
				t.Errorf("%s: status %d, want %d: %s", test.header, status, test.status, answer)
			}
			a.holds("a|counter = 1")
			continue
		}
		t.Run(test.header, func(t *testing.T) { checkError(t, status, answer, test.status, test.code) })
		if status == 415 && !strings.Contains(answer, "Content-Type: application/json") {
			t.Errorf("%s: the message does not say what to send: %s", test.header, answer)
		}
		if status == 415 && header.Get("Accept-Encoding") == "" {
			t.Errorf("%s: 415 without Accept-Encoding (RFC 9110, 15.5.16)", test.header)
		}
		a.holds()
	}
}

// TestBodyLimit: 4 MiB before and after inflation, each one byte around it, and
// around where inflating goes another way.
func TestBodyLimit(t *testing.T) {
	item := []byte(`{"name":"a","type":"counter"}`)
	padded := func(n int) []byte { return append(bytes.Repeat([]byte{' '}, n-len(item)), item...) }
	for _, size := range []int{likelyBody - 1, likelyBody, likelyBody + 1, MaxBody - 1, MaxBody, MaxBody + 1} {
		want := 201
		if size > MaxBody {
			want = http.StatusRequestEntityTooLarge
		}
		a := newAPITest(t, APIOptions{})
		for name, status := range map[string]int{
			"plain": first3(a.do("POST", "/api/v1/metrics", string(padded(size)))),
			"gzip":  first3(a.do("POST", "/api/v1/metrics", string(zipped(t, padded(size))), "Content-Encoding=gzip")),
		} {
			if status != want {
				t.Errorf("%s body of %d bytes: status %d, want %d", name, size, status, want)
			}
		}
		if left := a.api.bodies.left.Load(); left != bodyBudget {
			t.Errorf("%d bytes of the budget are left, want %d", left, bodyBudget)
		}
	}
}

func first3[A, B, C any](a A, _ B, _ C) A { return a }

// TestBomb: 64 MiB of zeros in 64 KiB of gzip are refused once 4 MiB of them have
// been seen.
func TestBomb(t *testing.T) {
	var bomb bytes.Buffer
	w, _ := gzip.NewWriterLevel(&bomb, gzip.BestCompression)
	for range 64 {
		w.Write(make([]byte, 1<<20))
	}
	w.Close()
	a := newAPITest(t, APIOptions{})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	status, answer, _ := a.do("POST", "/api/v1/metrics", bomb.String(), "Content-Encoding=gzip")
	runtime.ReadMemStats(&after)
	checkError(t, status, answer, http.StatusRequestEntityTooLarge, "body_too_large")
	// All that was allocated, garbage included.
	if got := after.TotalAlloc - before.TotalAlloc; got > 3<<20 {
		t.Errorf("%d bytes allocated for a bomb of %d, want at most 3 MiB", got, bomb.Len())
	}
	a.holds()
}

// TestNotFinite is the row "NaN, Inf" of the threats: in no dialect does a value
// that is not a finite number get into a window, and -0 is 0.
func TestNotFinite(t *testing.T) {
	for _, value := range []string{`NaN`, `Infinity`, `-Infinity`, `"NaN"`, `"inf"`, `"-Infinity"`, `"∞"`, `1e309`, `-1e309`, `"1e309"`, `nan`, `+1`} {
		a := newAPITest(t, APIOptions{})
		id := a.session("/register")
		for _, path := range []string{"/api/v1/metrics", "/pulse/api/v1/metrics", "/api/sessions/" + id + "/metrics", "/api/v1/events"} {
			if status, answer := a.post(path, `{"name":"a","type":"gauge","value":`+value+`}`); status != 400 {
				t.Errorf("%s %s: status %d, want 400: %s", path, value, status, answer)
			}
		}
		a.holds()
	}
	a := newAPITest(t, APIOptions{})
	a.post("/api/v1/metrics", `{"name":"a","type":"gauge","value":-0.0}`)
	a.holds("a|gauge = 0")
}
