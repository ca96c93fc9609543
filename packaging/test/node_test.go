//go:build !quick

package test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/forwarder/fluxtest"
)

// patience is how long what must happen on the node is waited for. A kubelet takes up a
// changed ConfigMap after up to two minutes, and the machine is emulated.
const patience = 10 * time.Minute

// TestNode runs what is shipped for Kubernetes on a node: a kubelet starts the pods, asks
// the probes, mounts and updates the volumes, stops and restarts. What the
// applications there send has to arrive exactly at a Flux outside.
func TestNode(t *testing.T) {
	if os.Getenv("SLUICE_NODE") == "" {
		t.Skip("needs a network of its own and SLUICE_NODE, which .ci/node sets")
	}
	began := time.Now()
	c := startCluster(t, gateway)
	c.startControllers()
	n := bootNode(t, c)
	t.Logf("ready after %.0f s: %s", time.Since(began).Seconds(), strings.Join(strings.Fields(n.sh("uname -r; containerd --version; runc --version | head -n 1")), " "))
	for name, level := range map[string]string{"base": "restricted", "apps": "privileged", "sidecar": "restricted", "chart": "privileged", "sidecar-chart": "restricted"} {
		n.must(fmt.Sprintf(namespaces, name, level), "apply", "-f", "-")
		n.key(name)
	}
	t.Run("base", n.base)
	t.Run("daemonset", n.daemonSet)
	t.Run("sidecar", n.sidecar)
	t.Run("job", n.job)
	t.Run("chart", n.chart)
	t.Run("faults", n.nodeFaults)
}

// key makes the Secret that docs/install.md asks for.
func (n *node) key(namespace string) {
	n.t.Helper()
	n.must("", "create", "secret", "generic", "sluice-keys", "-n", namespace, "--from-literal=flux_api_key="+fluxtest.Key)
}

// A fakeFlux is a Flux outside the node.
type fakeFlux struct {
	*fluxtest.Server
	url string
}

// flux starts one, whose rules must not be broken. Pods that begin with an empty
// spool do not know what was spent before: it lets them ask as often as they like.
func (n *node) flux(t *testing.T) fakeFlux {
	t.Helper()
	f := fluxtest.New(t, fluxtest.Options{InProcess: true, RequestsPerMinute: -1, QueriesPerMinute: -1})
	l, err := net.Listen("tcp", gateway+":0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: f.Handler()}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return fakeFlux{f, "http://" + l.Addr().String()}
}

// manifests is a copy of what is shipped, whose configurations name this Flux.
func (n *node) manifests(t *testing.T, f fakeFlux) string {
	t.Helper()
	dir := copyOf(t, "../kubernetes")
	for _, file := range []string{"base/configmap.yaml", "components/socket/config.yaml", "components/origin/config.yaml", "overlays/sidecar/configmap.yaml"} {
		replaceIn(t, filepath.Join(dir, file), "https://flux.brainzlab.ai", f.url+"\n        insecure: true")
	}
	return dir
}

// get reads a field of an object; "" when there is none.
func (n *node) get(namespace, object, path string) string {
	out, err := n.try("kubectl", "", "get", "-n", namespace, object, "-o", "jsonpath="+path)
	if err != nil {
		return ""
	}
	return out
}

// must runs kubectl, without which the rest of a test would be in vain.
func (n *node) must(input string, args ...string) {
	n.t.Helper()
	if out, err := n.try("kubectl", input, args...); err != nil || strings.Contains(out, "Warning:") {
		n.t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// rolled waits for all pods of a DaemonSet or Deployment to be those it wants, and ready.
func (n *node) rolled(namespace, object string) {
	n.t.Helper()
	if out, err := n.try("kubectl", "", "rollout", "status", "-n", namespace, object, "--timeout", patience.String()); err != nil {
		all, _ := n.try("kubectl", "", "describe", "pods", "-n", namespace)
		n.t.Fatalf("%s is not ready: %v\n%s%s", object, err, out, all)
	}
}

// agent is the pod of the agent in a namespace.
func (n *node) agent(namespace string) (name, address string) {
	n.t.Helper()
	n.within(patience, "there is one agent in "+namespace, func() bool {
		found := strings.Fields(n.get(namespace, "pods", `{range .items[?(@.metadata.labels.app\.kubernetes\.io/name=="sluice")]}{.metadata.name} {.status.podIP} {end}`))
		if len(found) != 2 {
			return false
		}
		name, address = found[0], found[1]
		return true
	})
	return name, address
}

type listener struct {
	Name    string
	Samples uint64
}

// An agentStatus is what the tests read of an agent's own.
type agentStatus struct {
	Ready     struct{ Detail string }
	Config    struct{ Loaded, Error string }
	Listeners []listener
	Upstreams []struct {
		Pending struct{ Windows, Batches int }
	}
	Ledger struct {
		Counter struct{ Accepted, Open uint64 }
	}
}

// status asks the agent of a pod.
func (n *node) status(address string) (s agentStatus, err error) {
	r, err := http.NewRequest("GET", "http://"+address+":8127/api/agent/status", nil)
	if err != nil {
		return s, err
	}
	r.Host = "localhost" // as the probes say
	answer, err := shellClient.Do(r)
	if err != nil {
		return s, err
	}
	defer answer.Body.Close()
	return s, json.NewDecoder(answer.Body).Decode(&s)
}

// accepted is how many counters an agent has taken.
func (n *node) accepted(address string) uint64 {
	s, err := n.status(address)
	if err != nil {
		return 0
	}
	return s.Ledger.Counter.Accepted
}

// An application is a pod that sends.
type application struct{ name, namespace, args string }

// launch makes it. It may use the node's sockets and knows the node's address.
func (n *node) launch(a application) {
	n.t.Helper()
	volume := `
      volumeMounts: [{name: socket, mountPath: /run/sluice, readOnly: true}]
  volumes: [{name: socket, hostPath: {path: /run/sluice, type: Directory}}]`
	if a.namespace != "apps" {
		volume = ""
	}
	n.must(fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: %[1]s}}
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  enableServiceLinks: false
  securityContext: {runAsNonRoot: true, runAsUser: 1000, supplementalGroups: [65532], seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: app
      image: node:1
      args: [%s]
      env: [{name: HOST_IP, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}]
      securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}%s
`, a.name, a.args, volume), "apply", "--validate=strict", "-n", a.namespace, "-f", "-")
}

// ended waits for an application to end, and gives how many samples it has sent.
func (n *node) ended(namespace, pod string) (sent int64) {
	n.t.Helper()
	phase := ""
	n.within(patience, pod+" has ended", func() bool {
		phase = n.get(namespace, "pod/"+pod, "{.status.phase}")
		return phase == "Succeeded" || phase == "Failed"
	})
	said := n.get(namespace, "pod/"+pod, "{.status.containerStatuses[0].state.terminated.message}")
	var failed int64
	if _, err := fmt.Sscanf(said, "sent %d failed %d", &sent, &failed); err != nil || phase != "Succeeded" {
		n.t.Fatalf("%s: %s, and says %q", pod, phase, said)
	}
	if failed > 0 {
		n.t.Logf("%s: %d samples were sent, %d more were refused and sent again", pod, sent, failed)
	}
	return sent
}

// arrives waits for counters to arrive, which must be that many and no more.
func (n *node) arrives(f fakeFlux, want int64, name string, tags ...string) {
	n.t.Helper()
	exact := new(big.Float).SetInt64(want)
	n.within(patience, fmt.Sprintf("%d of %s %v arrive", want, name, tags), func() bool { return f.CounterTotal(name, tags...).Exact.Cmp(exact) >= 0 })
	if got := f.CounterTotal(name, tags...); got.Exact.Cmp(exact) != 0 {
		n.t.Errorf("%v of %s %v have arrived, want %d", got.Exact, name, tags, want)
	}
}

// base is the DaemonSet that needs no privileges, behind its Service.
func (n *node) base(t *testing.T) {
	n.t, n.cluster.t = t, t
	f := n.flux(t)
	n.must("", "apply", "--server-side", "--validate=strict", "-n", "base", "-k", filepath.Join(n.manifests(t, f), "base"))
	n.rolled("base", "daemonset/sluice")
	service := n.get("base", "service/sluice", "{.spec.clusterIP}")
	n.launch(application{name: "to-service", namespace: "base", args: "send, -to, \"udp:" + service + ":8125\", -name, to.service, -count, \"2000\", -rate, \"200\""})
	n.arrives(f, n.ended("base", "to-service"), "to.service", "node:node")

	// What is in the open window when the pod is deleted is delivered before it ends: the
	// spool goes with it.
	pod, address := n.agent("base")
	n.launch(application{name: "last", namespace: "base", args: "send, -to, \"udp:" + service + ":8125\", -name, last, -count, \"300\", -rate, \"200\""})
	sent := n.ended("base", "last")
	n.within(patience, "the last ones are taken", func() bool { return n.accepted(address) == 2300 })
	n.must("", "delete", "pod", "-n", "base", pod)
	if got, _ := f.CounterTotal("last").Whole(); got.Int64() != sent {
		t.Errorf("%v of the last %d have arrived when the pod is gone", got, sent)
	}
	n.rolled("base", "daemonset/sluice")
	n.must("", "delete", "daemonset,service", "sluice", "-n", "base")
	n.arrives(f, 2000, "to.service")
	n.arrives(f, sent, "last")
}

// daemonSet is the overlay with everything a node can offer.
func (n *node) daemonSet(t *testing.T) {
	n.t, n.cluster.t = t, t
	f := n.flux(t)
	dir := filepath.Join(n.manifests(t, f), "overlays", "daemonset")
	n.must("", "apply", "--server-side", "-f", filepath.Join(dir, "namespace.yaml"))
	n.key("sluice")
	n.must("", "apply", "--server-side", "--validate=strict", "-k", dir)
	n.rolled("sluice", "daemonset/sluice")
	within := func(name string, test func(*testing.T, fakeFlux)) {
		t.Run(name, func(t *testing.T) {
			n.t, n.cluster.t = t, t
			test(t, f)
		})
		n.t, n.cluster.t = t, t
	}
	within("sockets", n.sockets)
	within("reload", n.reload)
	within("roll", n.roll)
	within("liveness", n.liveness)
	n.must("", "delete", "namespace", "sluice")
}

// ways to the agent of the node.
var ways = map[string]string{"unixgram": "unixgram:/run/sluice/statsd.sock", "unix": "unix:/run/sluice/stream.sock", "udp": "udp:$(HOST_IP):8125"}

// send starts an application for each way, or for some, and gives what waits for them and says how many
// samples each has sent. NAME.WAY is how their counters are called.
func (n *node) send(name string, count, rate int, over ...string) (wait func() map[string]int64) {
	n.t.Helper()
	if len(over) == 0 {
		over = slices.Collect(maps.Keys(ways))
	}
	for _, way := range over {
		to := ways[way]
		n.launch(application{name: name + "-" + way, namespace: "apps", args: fmt.Sprintf("send, -to, %q, -name, %s.%s, -count, %q, -rate, %q", to, name, way, fmt.Sprint(count), fmt.Sprint(rate))})
	}
	return func() map[string]int64 {
		sent := map[string]int64{}
		for _, way := range over {
			sent[way] = n.ended("apps", name+"-"+way)
		}
		return sent
	}
}

// sockets: three ways to the agent, and the tags of who sent.
func (n *node) sockets(t *testing.T, f fakeFlux) {
	for way, sent := range n.send("sent", 3000, 200)() {
		name := "sent." + way
		n.arrives(f, sent, name, "node:node")
		tagged, _ := f.CounterTotal(name, "namespace:apps", "pod:sent-"+way, "container:app").Whole()
		t.Logf("%s: %d of %d samples have tags of their pod", way, tagged, sent)
		if way == "udp" && tagged.Sign() != 0 || way != "udp" && tagged.Sign() == 0 {
			t.Errorf("%s: %d samples have tags of their pod", way, tagged)
		}
	}
}

// reload: a changed ConfigMap is taken up, one with a fault is not.
func (n *node) reload(t *testing.T, f fakeFlux) {
	pod, address := n.agent("sluice")
	before := n.get("sluice", "configmap/sluice", `{.data.sluice\.yaml}`)
	set := func(text string) {
		t.Helper()
		patch, err := json.Marshal(map[string]any{"data": map[string]string{"sluice.yaml": text}})
		if err != nil {
			t.Fatal(err)
		}
		n.must("", "patch", "configmap", "sluice", "-n", "sluice", "--type=merge", "-p", string(patch))
	}
	changed := strings.Replace(before, "node: ${NODE_NAME}", "node: ${NODE_NAME}\n    stage: two", 1)
	was, err := n.status(address)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	set(changed)
	n.within(patience, "the change is taken up", func() bool {
		s, err := n.status(address)
		return err == nil && s.Config.Loaded != was.Config.Loaded
	})
	t.Logf("a changed ConfigMap is in effect after %.0f s", time.Since(began).Seconds())
	for way, sent := range n.send("changed", 100, 100)() {
		n.arrives(f, sent, "changed."+way, "stage:two")
	}
	began = time.Now()
	set(strings.Replace(changed, "stage: two", "stage: [three]", 1))
	var s agentStatus
	n.within(patience, "the fault is found", func() bool {
		s, err = n.status(address)
		return err == nil && s.Config.Error != ""
	})
	t.Logf("one with a fault is refused after %.0f s: %s", time.Since(began).Seconds(), s.Config.Error)
	for way, sent := range n.send("refused", 100, 100)() {
		n.arrives(f, sent, "refused."+way, "stage:two")
	}
	set(before)
	n.within(patience, "the first one is taken up again", func() bool {
		s, err = n.status(address)
		return err == nil && s.Config.Error == ""
	})
	if now, _ := n.agent("sluice"); now != pod {
		t.Errorf("the pod is %s, was %s", now, pod)
	}
	if got := n.get("sluice", "pod/"+pod, "{.status.containerStatuses[0].restartCount}"); got != "0" {
		t.Errorf("the agent has been restarted %s times", got)
	}
}

// roll: the pod is replaced while applications send. What was accepted arrives once, and what a
// Unix socket took was accepted; UDP loses what comes while nobody listens, and finds the next
// agent by itself.
func (n *node) roll(t *testing.T, f fakeFlux) {
	pod, address := n.agent("sluice")
	before := n.accepted(address)
	log := n.follow("sluice", pod, "sluice")
	n.launch(application{name: "rolled-udp", namespace: "apps", args: fmt.Sprintf("send, -to, %q, -name, rolled.udp", ways["udp"])})
	wait := n.send("rolled", 6000, 100, "unixgram", "unix")
	n.within(patience, "they send", func() bool { return n.accepted(address) > before+500 })
	overUDP := n.follow("apps", "rolled-udp", "app")
	began := time.Now()
	n.must("", "rollout", "restart", "-n", "sluice", "daemonset/sluice")
	n.rolled("sluice", "daemonset/sluice")
	t.Logf("the pod was replaced within %.0f s", time.Since(began).Seconds())
	sent := wait()
	now, address := n.agent("sluice")
	if now == pod {
		t.Fatalf("the pod is still %s", pod)
	}
	n.within(patience, "the next agent is sent to over UDP", func() bool {
		s, err := n.status(address)
		return err == nil && slices.ContainsFunc(s.Listeners, func(l listener) bool { return strings.HasPrefix(l.Name, "udp") && l.Samples > 0 })
	})
	n.must("", "delete", "pod", "-n", "apps", "rolled-udp")
	var failed int64
	for line := range strings.Lines(overUDP()) {
		_, text, _ := strings.Cut(line, " ")
		over := int64(0)
		if got, _ := fmt.Sscanf(text, "sent %d failed %d", &over, &failed); got == 2 {
			sent["udp"] = over
		}
	}

	var old uint64
	said := log()
	if _, err := fmt.Sscanf(after(after(said, "msg=stopped"), "accepted="), "%d", &old); err != nil {
		t.Errorf("the old agent has not said that it stopped:\n%s", said)
	}
	for _, way := range []string{"unixgram", "unix"} {
		n.arrives(f, sent[way], "rolled."+way)
	}
	n.within(patience, "all that was accepted has arrived", func() bool {
		s, err := n.status(address)
		return err == nil && s.Ledger.Counter.Open == 0 && len(s.Upstreams) == 1 && s.Upstreams[0].Pending.Windows+s.Upstreams[0].Pending.Batches == 0
	})
	var arrived int64
	for way := range ways {
		got, _ := f.CounterTotal("rolled." + way).Whole()
		t.Logf("%s: %d sent, %d arrived", way, sent[way], got)
		arrived += got.Int64()
	}
	if accepted := old - before + n.accepted(address); uint64(arrived) != accepted {
		t.Errorf("%d samples were accepted and %d arrived", accepted, arrived)
	}
}

// after is what follows a part of a text.
func after(text, part string) string {
	_, rest, _ := strings.Cut(text, part)
	return rest
}

// follow reads the log of a container until the container ends.
func (n *node) follow(namespace, pod, container string) (all func() string) {
	n.t.Helper()
	r, err := n.logs(namespace, pod, container, "follow=true&timestamps=true")
	if err != nil {
		n.t.Fatal(err)
	}
	var text []byte
	var done sync.WaitGroup
	done.Go(func() {
		defer r.Close()
		text, _ = io.ReadAll(r)
	})
	return func() string {
		done.Wait()
		return string(text)
	}
}

// liveness: a process that stands still is replaced by the kubelet, and what it had in the spool
// is delivered by the next.
func (n *node) liveness(t *testing.T, f fakeFlux) {
	pod, address := n.agent("sluice")
	f.Pause()
	sent := n.send("stood", 500, 200)()
	n.within(patience, "it is in the spool", func() bool {
		s, err := n.status(address)
		return err == nil && s.Ledger.Counter.Open == 0
	})
	began := time.Now()
	n.sh("kill -STOP $(pgrep -f '^/usr/bin/sluice run')")
	n.within(patience, "the kubelet has restarted it", func() bool {
		return n.get("sluice", "pod/"+pod, "{.status.containerStatuses[0].restartCount}") == "1"
	})
	t.Logf("restarted after %.0f s", time.Since(began).Seconds())
	n.rolled("sluice", "daemonset/sluice")
	if err := f.Resume(); err != nil {
		t.Fatal(err)
	}
	for way, sent := range sent {
		n.arrives(f, sent, "stood."+way)
	}
	for way, sent := range n.send("after", 100, 100)() {
		n.arrives(f, sent, "after."+way)
	}
}
