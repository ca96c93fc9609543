package main

import (
	"bufio"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"sluice/forwarder/fluxtest"
)

const (
	containerA = "3f4ca8f0c0de6fb6a8bd6a6a0b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e"
	containerB = "91a2b3c4d5e6f708192a3b4c5d6e7f80a1b2c3d4e5f60718293a4b5c6d7e8f90"
	podOfBoth  = "75a2b6d5-3949-4afb-ad0d-92ff0674e759"
)

// A sender is a process of this test's binary that sends what it is told to, see
// sendLines.
type sender struct {
	t     *testing.T
	stdin interface{ Write([]byte) (int, error) }
	said  *bufio.Scanner
}

// sendFrom starts a process in control groups.
func sendFrom(t *testing.T, network, path string, groups ...string) *sender {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), senderVariable+"="+network+":"+path)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the sender: %v", err)
		}
	})
	for _, g := range groups {
		if err := os.WriteFile(filepath.Join(g, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
			t.Fatal(err)
		}
	}
	return &sender{t: t, stdin: stdin, said: bufio.NewScanner(stdout)}
}

func (s *sender) send(line string) {
	s.t.Helper()
	if _, err := s.stdin.Write([]byte(line + "\n")); err != nil {
		s.t.Fatal(err)
	}
	if !s.said.Scan() {
		s.t.Fatalf("the sender has not sent %q", line)
	}
}

// hierarchies are where this machine takes processes: version 2 alone, or beside the
// hierarchies of version 1.
func hierarchies(t *testing.T) (dirs []string) {
	t.Helper()
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/memory"} {
		if f, err := os.OpenFile(dir+"/cgroup.procs", os.O_WRONLY, 0); err == nil {
			f.Close()
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// makeGroup makes a control group in each hierarchy until the test's end.
func makeGroup(t *testing.T, path string) (groups []string) {
	t.Helper()
	own := fmt.Sprintf("sluice-test-%d", os.Getpid())
	for _, dir := range hierarchies(t) {
		group := filepath.Join(dir, own, path)
		if err := os.MkdirAll(group, 0o755); err != nil {
			t.Skipf("control groups cannot be made here: %v", err)
		}
		t.Cleanup(func() {
			for ; filepath.Base(group) != filepath.Base(dir); group = filepath.Dir(group) {
				os.Remove(group) // others of the test may be in it
			}
		})
		groups = append(groups, group)
	}
	if len(groups) == 0 {
		t.Skip("control groups cannot be made here: nothing under /sys/fs/cgroup can be written")
	}
	return groups
}

// TestOrigins runs senders in control groups of their own, spelled the way Kubernetes
// and Docker do, and demands that what they send over Unix sockets reaches Flux with the
// tags that a kubelet tells of their containers: from the kernel's word alone, and from
// what clients say of themselves where the kernel says nothing, but never against it.
func TestOrigins(t *testing.T) {
	groupA := makeGroup(t, "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod"+strings.ReplaceAll(podOfBoth, "-", "_")+".slice/cri-containerd-"+containerA+".scope")
	groupB := makeGroup(t, "docker/"+containerB)
	kubelet := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer the-token" || r.URL.Path != "/pods" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprintf(w, `{"kind":"PodList","apiVersion":"v1","metadata":{},"items":[{"metadata":{"name":"shop-1","namespace":"sales","uid":%q},
			"spec":{},"status":{"containerStatuses":[{"name":"web","image":"shop:1","containerID":"containerd://%s"},{"name":"proxy","image":"p","containerID":"containerd://%s"}]}}]}`,
			podOfBoth, containerA, containerB)
	}))
	defer kubelet.Close()
	flux := fluxtest.New(t, unlimited(fluxtest.Options{MaxItems: 499}))
	s := setup{Flux: flux.URL, Dir: t.TempDir()}
	token, ca := filepath.Join(s.Dir, "token"), filepath.Join(s.Dir, "ca.crt")
	for file, text := range map[string][]byte{token: []byte("the-token"), ca: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: kubelet.Certificate().Raw})} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	stream := filepath.Join(s.Dir, "stream.sock")
	s.Listen = fmt.Sprintf("  udp: [\"127.0.0.1:0\"]\n  unixgram: [{path: %q}]\n  unix: [{path: %q}]\n  http: \"127.0.0.1:0\"\n", filepath.Join(s.Dir, "statsd.sock"), stream)
	s.Text = s.yaml() + fmt.Sprintf("origin: {detect: true, kubelet: %q, kubelet_token_file: %q, kubelet_ca_file: %q}\n", kubelet.URL, token, ca)
	d := start(t, s)

	inode := func(group string) uint64 {
		info, err := os.Stat(group)
		if err != nil {
			t.Fatal(err)
		}
		return info.Sys().(*syscall.Stat_t).Ino
	}
	here, udp := d.dial("unixgram"), d.dial("udp")
	const web, proxy = "web", "proxy"
	cases := []struct {
		name, container, fields string
		send                    func(string)
	}{
		{"gram", web, "", sendFrom(t, "unixgram", d.unix, groupA...).send},
		{"stream", proxy, "", sendFrom(t, "unix", stream, groupB...).send},
		{"against", web, "|c:ci-" + containerB, sendFrom(t, "unixgram", d.unix, groupA...).send},
		{"claimed", proxy, "|c:" + containerB, func(line string) { d.send(here, line) }}, // this process is in no container
		{"inode", web, fmt.Sprintf("|c:in-%d", inode(groupA[len(groupA)-1])), func(line string) { d.send(udp, line) }},
		{"external", proxy, "|e:it-false,cn-proxy,pu-" + podOfBoth, func(line string) { d.send(udp, line) }},
		{"entity", "", "|#dd.internal.entity_id:" + podOfBoth, func(line string) { d.send(udp, line) }},
		{"own", web, "|#pod:mine|c:" + containerA, func(line string) { d.send(udp, line) }},
	}
	// What arrives before an answer has no tags of its origin; what follows does.
	d.until("all have their origin", func() bool {
		known := true
		for _, c := range cases {
			c.send(c.name + ":1|c" + c.fields)
			known = known && len(flux.RowsOf(c.name, "namespace:sales")) > 0
		}
		return known
	})
	for _, c := range cases {
		pod, want := "shop-1", 2
		if c.name == "own" {
			pod = "mine" // what a client says of its own tags stays
		}
		if c.container != "" {
			want++
		}
		for _, row := range flux.RowsOf(c.name, "namespace:sales") {
			if len(row.Tags) != want || !row.Has("pod:"+pod) || c.container != "" && !row.Has("container:"+c.container) {
				t.Errorf("%s has the tags %v, want pod %s and container %q", c.name, row.Tags, pod, c.container)
			}
		}
	}
	_, page := d.get("/metrics")
	if strings.Contains(page, "sluice_origin_known 0\n") || strings.Contains(page, "sluice_origin_polls_total 0\n") {
		t.Errorf("the agent's own metrics tell of no origin:\n%s", page)
	}
	d.balanced()
}
