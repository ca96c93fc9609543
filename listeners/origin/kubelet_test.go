package origin

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func podList(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/pods.json")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParsePods(t *testing.T) {
	pods, err := parsePods(bytes.NewReader(podList(t)), map[string]string{"team": "team", "app.kubernetes.io/name": "app", "absent": "x"})
	if err != nil {
		t.Fatal(err)
	}
	want := []pod{
		{uid: podA, name: "shop-7d9f8c6b5-x2x9z", namespace: "sales", workload: "shop",
			labels: map[string]string{"team": "a,b", "app.kubernetes.io/name": "shop"},
			containers: []container{{"migrate", "aaaaa" + idA[5:], "shop:1"}, {"web", idA, "registry.example.com/shop:1"},
				{"proxy", idB, "proxy:2"}}},
		{uid: hash, name: "etcd-node-1", namespace: "kube-system", workload: "node-1"},
		{uid: "00000000-0000-0000-0000-000000000001", name: "new", namespace: "sales", containers: []container{{"web", "", "shop:2"}}},
	}
	if !reflect.DeepEqual(pods, want) {
		t.Errorf("parsePods() = %+v, want %+v", pods, want)
	}
	for _, empty := range []string{`{"items":null}`, `{"items":[]}`} {
		if pods, err := parsePods(strings.NewReader(empty), nil); len(pods) != 0 || err != nil {
			t.Errorf("parsePods(%s) = %v, %v, want none", empty, pods, err)
		}
	}
	for _, bad := range []string{``, `{}`, `[]`, `{"items":{}}`, `{"items":[{"metadata":{"uid":1}}]}`, `{"items":[{}`, "\xff"} {
		if pods, err := parsePods(strings.NewReader(bad), nil); err == nil {
			t.Errorf("parsePods(%s) = %v, want an error", bad, pods)
		}
	}
}

// An answer without an end is not read to it, and one with many pods is refused: what
// is kept stays within bounds.
func TestParsePodsBounds(t *testing.T) {
	endless := io.MultiReader(strings.NewReader(`{"junk":[`), repeat(`"`+strings.Repeat("x", 1000)+`",`), strings.NewReader("1]"))
	if _, err := parsePods(endless, nil); err == nil || !strings.Contains(err.Error(), fmt.Sprint(maxAnswer)) {
		t.Errorf("an endless answer: %v, want the limit of %d", err, maxAnswer)
	}
	many := io.MultiReader(strings.NewReader(`{"items":[`), repeat(`{"metadata":{"uid":"x"}},`))
	if _, err := parsePods(many, nil); err == nil || !strings.Contains(err.Error(), fmt.Sprint(maxContainers)) {
		t.Errorf("endless pods: %v, want the limit of %d", err, maxContainers)
	}
}

// repeat reads a text without end.
type repeat string

func (r repeat) Read(b []byte) (n int, err error) {
	for n+len(r) <= len(b) {
		n += copy(b[n:], r)
	}
	if n == 0 {
		return copy(b, r[:len(b)]), nil
	}
	return n, nil
}

// serveKubelet serves what a kubelet does over TLS: its pods to whoever shows the token.
func serveKubelet(t *testing.T, serve http.HandlerFunc) Options {
	t.Helper()
	server := httptest.NewTLSServer(serve)
	t.Cleanup(server.Close)
	dir := t.TempDir()
	o := Options{Detect: true, Kubelet: server.URL, TokenFile: filepath.Join(dir, "token"), CAFile: filepath.Join(dir, "ca.crt"),
		Proc: filepath.Join(dir, "proc"), Cgroups: filepath.Join(dir, "cgroups"), Tags: []string{"namespace", "pod", "container"}}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	for file, text := range map[string]string{o.TokenFile: "secret-token\n", o.CAFile: string(ca)} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

func TestAskKubelet(t *testing.T) {
	elsewhere := 0
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere++ }))
	defer other.Close()
	status := http.StatusOK
	o := serveKubelet(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method != http.MethodGet || r.URL.Path != "/pods":
			http.NotFound(w, r)
		case r.Header.Get("Authorization") != "Bearer secret-token":
			w.WriteHeader(http.StatusUnauthorized)
		case status == http.StatusFound:
			http.Redirect(w, r, other.URL, status)
		case status != http.StatusOK:
			w.WriteHeader(status)
		default:
			w.Write(podList(t))
		}
	})
	ask := func(change func(o *Options)) ([]pod, error) {
		o := o
		change(&o)
		return askKubelet(t.Context(), &o)
	}
	if pods, err := ask(func(*Options) {}); err != nil || len(pods) != 3 {
		t.Errorf("askKubelet() = %d pods, %v, want 3", len(pods), err)
	}
	if pods, err := ask(func(o *Options) { o.CAFile, o.Insecure = "", true }); err != nil || len(pods) != 3 {
		t.Errorf("askKubelet() without a look at the certificate = %d pods, %v, want 3", len(pods), err)
	}
	for want, change := range map[string]func(o *Options){
		"401":              func(o *Options) { o.TokenFile = "" },
		"403":              func(*Options) { status = http.StatusForbidden },
		"302":              func(*Options) { status = http.StatusFound },
		"503":              func(*Options) { status = http.StatusServiceUnavailable },
		"kubelet_insecure": func(o *Options) { o.CAFile = "" },
		"no certificate":   func(o *Options) { o.CAFile = o.TokenFile },
		"read the token":   func(o *Options) { o.TokenFile += "x" },
		"refused":          func(o *Options) { o.Kubelet = "https://127.0.0.1:1" },
	} {
		status = http.StatusOK
		_, err := ask(change)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret-token") {
			t.Errorf("error %v, want one with %s and without the token", err, want)
		}
	}
	if elsewhere > 0 {
		t.Error("a redirect was followed")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := askKubelet(ctx, &o); err == nil {
		t.Error("it goes on after its end")
	}
}

func TestMapFile(t *testing.T) {
	mapped, err := parseMap([]byte("# hosts\n\n" + idA + " container:web,image:shop:1\r\n" + idB[:12] + "\tcontainer:proxy\n" + podA + " pod:x, team:a b\n"))
	if err != nil {
		t.Fatal(err)
	}
	if len(mapped) != 3 || mapped[idA][1].Value != "shop:1" || mapped[podA][1].Value != "a b" || mapped[idB[:12]] == nil {
		t.Errorf("parseMap() = %v", mapped)
	}
	for text, want := range map[string]string{
		"x a:b":                       "line 1",
		"\n" + idA[:11] + " a:b":      "line 2",
		idA + " a":                    "no tag",
		idA:                           "no tag",
		idA + " :b":                   "no tag",
		idA + " a:b,":                 "no tag",
		idA + " a:b\n" + idA + " c:d": "twice",
		idA + " a:\x01":               "no text",
		idA + " a:\xff":               "no text",
		idA + " " + strings.Repeat("k", 65) + ":v":     "longer",
		idA + " " + strings.Repeat("k:v,", 20) + "k:v": "20 tags",
		strings.Repeat("#", maxMap+1):                  "limit",
	} {
		if mapped, err := parseMap([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("parseMap(%.80q) = %v, %v, want an error with %q", text, mapped, err, want)
		}
	}
}

func FuzzPods(f *testing.F) {
	f.Add(podList(f))
	f.Add([]byte(`{"items":[{"metadata":{"labels":{"a":"b"}}}]}`))
	f.Fuzz(func(t *testing.T, answer []byte) {
		pods, err := parsePods(bytes.NewReader(answer), map[string]string{"a": "a"})
		if err != nil && pods != nil {
			t.Error("pods and an error")
		}
	})
}

func FuzzMapFile(f *testing.F) {
	f.Add([]byte(idA + " a:b\n# c\n" + podA + " d:e,f:g"))
	f.Fuzz(func(t *testing.T, text []byte) {
		mapped, _ := parseMap(text)
		for id, tags := range mapped {
			if len(id) < 12 || len(tags) == 0 || len(tags) > maxTags {
				t.Errorf("%q has %v", id, tags)
			}
		}
	})
}
