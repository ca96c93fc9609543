//go:build !quick

package test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// sender is the application beside a sidecar: it sends as soon as it starts, and goes on for
// two seconds after it was told to end.
const senderArgs = `node:1
          args: [send, -to, "udp:127.0.0.1:8125", -name, beside, -count, "500", -rate, "100", -stay, -after, 2s]`

// sidecar: it is there before the application and after it.
func (n *node) sidecar(t *testing.T) {
	n.t, n.cluster.t = t, t
	f := n.flux(t)
	dir := filepath.Join(n.manifests(t, f), "overlays", "sidecar")
	replaceIn(t, filepath.Join(dir, "deployment.yaml"), "example:1.0.0", senderArgs)
	n.must("", "apply", "--server-side", "--validate=strict", "-n", "sidecar", "-k", dir)
	n.rolled("sidecar", "deployment/example")
	pod := n.get("sidecar", "pods", `{.items[0].metadata.name}`)
	app, agent := n.follow("sidecar", pod, "example"), n.follow("sidecar", pod, "sluice")
	n.arrives(f, 500, "beside", "pod:"+pod, "namespace:sidecar", "node:node") // none of the first is missing
	began := time.Now()
	n.must("", "delete", "deployment", "example", "-n", "sidecar")
	n.must("", "wait", "--for=delete", "-n", "sidecar", "pod/"+pod, "--timeout", patience.String())
	t.Logf("the pod was gone after %.0f s", time.Since(began).Seconds())
	last, stopping := lineOf(t, app(), "failed 0"), lineOf(t, agent(), "msg=stopping")
	var sent int64
	if _, err := fmt.Sscanf(last[1], "sent %d", &sent); err != nil || sent <= 500 {
		t.Fatalf("the application says %q", last)
	}
	if last[0] > stopping[0] {
		t.Errorf("the agent was told to stop at %s, before the application ended at %s", stopping[0], last[0])
	}
	n.arrives(f, sent, "beside", "pod:"+pod, "namespace:sidecar", "node:node")
}

// lineOf finds a line of a log: its time, and what it says.
func lineOf(t *testing.T, log, part string) []string {
	t.Helper()
	for line := range strings.Lines(log) {
		if strings.Contains(line, part) {
			return strings.SplitN(strings.TrimSpace(line), " ", 2)
		}
	}
	t.Fatalf("no line has %q:\n%s", part, log)
	return nil
}

// job: a Job with a sidecar completes when its application has ended, and everything that
// sent has arrived.
func (n *node) job(t *testing.T) {
	n.t, n.cluster.t = t, t
	f := n.flux(t)
	dir := filepath.Join(n.manifests(t, f), "overlays", "sidecar")
	replaceIn(t, filepath.Join(dir, "deployment.yaml"), "example:1.0.0", strings.Replace(senderArgs, ", -stay, -after, 2s", "", 1))
	replaceIn(t, filepath.Join(dir, "deployment.yaml"), "  replicas: 1\n  selector:\n    matchLabels:\n      app.kubernetes.io/name: example\n", "")
	replaceIn(t, filepath.Join(dir, "deployment.yaml"), "automountServiceAccountToken: false", "restartPolicy: Never\n      automountServiceAccountToken: false")
	for _, file := range []string{"deployment.yaml", "sidecar.yaml"} {
		replaceIn(t, filepath.Join(dir, file), "apiVersion: apps/v1\nkind: Deployment", "apiVersion: batch/v1\nkind: Job")
	}
	n.must("", "apply", "--server-side", "--validate=strict", "-n", "sidecar", "-k", dir)
	n.must("", "wait", "--for=condition=complete", "-n", "sidecar", "job/example", "--timeout", patience.String())
	n.arrives(f, 500, "beside", "namespace:sidecar", "node:node")
	n.must("", "delete", "job", "example", "-n", "sidecar")
}

// chart installs both forms of the Helm chart.
func (n *node) chart(t *testing.T) {
	n.t, n.cluster.t = t, t
	f := n.flux(t)
	config := filepath.Join(t.TempDir(), "sluice.yaml")
	n.write(config, chartConfig(f))
	n.takes("helm", "", "install", "agent", chartPath, "-n", "chart", "--set", "hostPort=true,socket=true,origin.enabled=true,hostSpool=true", "--set-file", "config="+config)
	n.takes("helm", "", "install", "beside", chartPath, "-n", "sidecar-chart", "--set", "form=sidecar,sidecar.example=true,sidecar.exampleImage=node:1")
	n.rolled("chart", "daemonset/agent")
	n.rolled("sidecar-chart", "deployment/example")
	for way, sent := range n.send("chart", 300, 100)() {
		n.arrives(f, sent, "chart."+way)
	}
	n.takes("helm", "", "uninstall", "agent", "-n", "chart")
	n.takes("helm", "", "uninstall", "beside", "-n", "sidecar-chart")
}

func chartConfig(f fakeFlux) string {
	return fmt.Sprintf(`listen:
  udp: ["0.0.0.0:8125"]
  unixgram: [{path: /run/sluice/statsd.sock, mode: "0660"}]
  unix: [{path: /run/sluice/stream.sock, mode: "0660"}]
  http: "0.0.0.0:8127"
  allow_remote: true
upstreams: [{type: flux, url: %q, insecure: true, api_key_file: /etc/sluice/keys/flux_api_key}]
`, f.url)
}

// nodeFaults shows that the node tells what is wrong: each of these differs from what is shipped in
// a word, and an API server takes it.
func (n *node) nodeFaults(t *testing.T) {
	n.t, n.cluster.t = t, t
	f := n.flux(t)
	for _, fault := range []struct{ file, old, new, reason string }{
		{"base/daemonset.yaml", "path: /healthz", "path: /healthy", "Startup probe failed: HTTP probe failed with statuscode: 404"},
		{"base/daemonset.yaml", "httpHeaders: [{name: Host, value: localhost}]", "httpHeaders: [{name: Host, value: example.com}]", "Startup probe failed: HTTP probe failed with statuscode: 421"},
	} {
		dir := n.manifests(t, f)
		replaceIn(t, filepath.Join(dir, fault.file), fault.old, fault.new)
		n.must("", "apply", "--server-side", "-n", "base", "-k", filepath.Join(dir, "base"))
		n.within(patience, "the kubelet says: "+fault.reason, func() bool {
			return strings.Contains(n.get("base", "events", "{.items[*].message}"), fault.reason)
		})
		n.must("", "delete", "daemonset", "sluice", "-n", "base")
	}
}
