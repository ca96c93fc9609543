//go:build !quick

package test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// namespaces: where "restricted" is enforced, and "baseline", which hosts' ports and
// paths need more than. kubectl shows what the server warns of.
const namespaces = `apiVersion: v1
kind: Namespace
metadata:
  name: %[1]s
  labels:
    pod-security.kubernetes.io/enforce: %[2]s
    pod-security.kubernetes.io/warn: %[2]s
---
`

// TestAPIServer gives what is shipped for Kubernetes to a real API server: first to try
// (a dry run there runs validation and admission), then for good. Unknown fields are faults,
// and so are the server's warnings. Then it makes the pods themselves, to which the
// levels of Pod Security apply; and the same again with Helm.
func TestAPIServer(t *testing.T) {
	c := startCluster(t, "127.0.0.1", "--disable-admission-plugins", "ServiceAccount") // nobody makes the accounts
	for name, level := range map[string]string{"base": "restricted", "sidecar": "restricted", "refusing": "baseline", "chart": "restricted", "sidecar-chart": "restricted", "host-chart": "privileged"} {
		c.takes("kubectl", fmt.Sprintf(namespaces, name, level), "apply", "-f", "-")
	}
	version := c.takes("kubectl", "", "version")
	t.Log(strings.Join(strings.Fields(version), " "))
	t.Run("kustomize", c.kustomize)
	t.Run("faults", c.faults)
	t.Run("podmonitor", c.podMonitor)
	t.Run("helm", c.helm)
}

func (c *cluster) kustomize(t *testing.T) {
	c.t = t
	c.takes("kubectl", "", "apply", "--server-side", "-f", "../kubernetes/overlays/daemonset/namespace.yaml")
	for _, shape := range []struct{ dir, namespace string }{
		{"base", "base"},
		{"overlays/sidecar", "sidecar"},
		{"overlays/daemonset", "sluice"},
	} {
		apply := []string{"apply", "--server-side", "--validate=strict", "-n", shape.namespace, "-k", "../kubernetes/" + shape.dir}
		c.takes("kubectl", "", append(apply, "--dry-run=server")...)
		c.takes("kubectl", "", apply...)
		c.takes("kubectl", "", append(apply, "--dry-run=server")...) // onto itself
		for _, pod := range podsOf(t, kustomize(t, shape.dir)) {
			c.takes("kubectl", pod, "create", "--validate=strict", "-n", shape.namespace, "-f", "-")
			if shape.namespace == "sluice" {
				c.refuses(`violates PodSecurity "baseline:latest"`, "kubectl", pod, "create", "-n", "refusing", "-f", "-")
			}
		}
	}
	// What the server keeps is what was meant.
	for _, what := range []struct{ namespace, object, path, want string }{
		{"sidecar", "deployment/example", "{.spec.template.spec.initContainers[0].restartPolicy}", "Always"},
		{"sluice", "daemonset/sluice", "{.spec.template.spec.containers[0].ports[0].hostPort}", "8125"},
		{"base", "service/sluice", "{.spec.internalTrafficPolicy}", "Local"},
		{"base", "daemonset/sluice", "{.spec.template.spec.priorityClassName}", "system-node-critical"},
	} {
		if got := c.takes("kubectl", "", "get", "-n", what.namespace, what.object, "-o", "jsonpath="+what.path); got != what.want {
			t.Errorf("%s %s has %s = %q, want %q", what.namespace, what.object, what.path, got, what.want)
		}
	}
}

// podsOf makes a pod of each template, as a controller would.
func podsOf(t *testing.T, all []manifest) (pods []string) {
	t.Helper()
	for _, m := range all {
		var template corev1.PodTemplateSpec
		switch m.kind {
		case "DaemonSet":
			var d appsv1.DaemonSet
			m.into(t, &d)
			template = d.Spec.Template
		case "Deployment":
			var d appsv1.Deployment
			m.into(t, &d)
			template = d.Spec.Template
		default:
			continue
		}
		p := corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: template.ObjectMeta, Spec: template.Spec}
		p.Name = m.name
		text, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		pods = append(pods, string(text))
	}
	if len(pods) != 1 {
		t.Fatalf("%d kinds of pods, want 1", len(pods))
	}
	return pods
}

// faults shows that the server is as strict as is said above: each of these, which differ
// from what is shipped in one word, is refused.
func (c *cluster) faults(t *testing.T) {
	c.t = t
	for _, f := range []struct{ file, old, new, why string }{
		{"daemonset.yaml", "startupProbe:", "startupProb:", `unknown field "spec.template.spec.containers[0].startupProb"`},
		{"service.yaml", "internalTrafficPolicy: Local", "internalTrafficPolicy: Node", "spec.internalTrafficPolicy"},
		{"daemonset.yaml", "maxUnavailable: 1", "maxUnavailable: 0", "maxUnavailable"},
		{"daemonset.yaml", "terminationGracePeriodSeconds: 45", "terminationGracePeriodSeconds: soon", "terminationGracePeriodSeconds"},
	} {
		dir := copyOf(t, "../kubernetes")
		replaceIn(t, filepath.Join(dir, "base", f.file), f.old, f.new)
		c.refuses(f.why, "kubectl", "", "apply", "--validate=strict", "-n", "base", "--dry-run=server", "-k", filepath.Join(dir, "base"))
	}
	// A pod that is not restricted any more is warned of where it is only part of
	// a DaemonSet, and refused where it is made.
	dir := copyOf(t, "../kubernetes")
	replaceIn(t, filepath.Join(dir, "base", "daemonset.yaml"), "allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true")
	out, err := c.try("kubectl", "", "apply", "-n", "base", "--dry-run=server", "-k", filepath.Join(dir, "base"))
	if want := `Warning: would violate PodSecurity "restricted:latest"`; err != nil || !strings.Contains(out, want) {
		t.Errorf("got %v, want %q\n%s", err, want, out)
	}
	rel, err := filepath.Rel("../kubernetes", dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, pod := range podsOf(t, kustomize(t, filepath.Join(rel, "base"))) {
		c.refuses(`violates PodSecurity "restricted:latest"`, "kubectl", pod, "create", "--dry-run=server", "-n", "base", "-f", "-")
	}
}

func copyOf(t *testing.T, dir string) string {
	t.Helper()
	// Beside the packages: kustomize wants a way to it from ../kubernetes.
	to, err := os.MkdirTemp("..", ".copy-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(to) })
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

func replaceIn(t *testing.T, file, old, new string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), old) {
		t.Fatalf("%s has no %q", file, old)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(text), old, new, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
}

// podMonitor: it needs the Prometheus operator's definition, and is left out without.
func (c *cluster) podMonitor(t *testing.T) {
	c.t = t
	dir := copyOf(t, "../kubernetes")
	overlay := filepath.Join(dir, "overlays", "monitored")
	if err := os.Mkdir(overlay, 0o755); err != nil {
		t.Fatal(err)
	}
	c.write(filepath.Join(overlay, "kustomization.yaml"), "resources: [../../base]\ncomponents: [../../components/podmonitor, ../../components/networkpolicy]\n")
	apply := []string{"apply", "--server-side", "--validate=strict", "-n", "base", "-k", overlay}
	c.refuses(`no matches for kind "PodMonitor"`, "kubectl", "", apply...)
	c.refuses(`no matches for kind "PodMonitor"`, "helm", "", "install", "sluice", chartPath, "-n", "chart", "--set", "podMonitor=true")
	definition := filepath.Join(c.tools, "podmonitors.yaml")
	c.takes("kubectl", "", "apply", "--server-side", "-f", definition)
	c.takes("kubectl", "", "wait", "--for", "condition=established", "--timeout=120s", "crd/podmonitors.monitoring.coreos.com")
	c.takes("kubectl", "", append(apply, "--dry-run=server")...)
	c.takes("kubectl", "", apply...)
	replaceIn(t, filepath.Join(dir, "components", "podmonitor", "podmonitor.yaml"), "podMetricsEndpoints:", "podMetricsEndpoint:")
	c.refuses("podMetricsEndpoint", "kubectl", "", apply...)
}

// helm installs, upgrades and uninstalls the chart.
func (c *cluster) helm(t *testing.T) {
	c.t = t
	const managed = "app.kubernetes.io/managed-by=Helm"
	c.takes("helm", "", "lint", "--strict", chartPath)
	for _, shape := range []struct {
		namespace string
		set       []string
		values    map[string]any
	}{
		{"chart", nil, nil},
		{"sidecar-chart", []string{"--set", "form=sidecar,sidecar.example=true"}, sidecarExample},
		{"host-chart", []string{"--set", "hostPort=true,socket=true,origin.enabled=true,hostSpool=true,networkPolicy=true,podMonitor=true"}, everything},
	} {
		with := append([]string{"agent", chartPath, "-n", shape.namespace}, shape.set...)
		c.takes("helm", "", append([]string{"install", "--dry-run=server"}, with...)...)
		c.takes("helm", "", append([]string{"install"}, with...)...)
		c.takes("helm", "", append(append([]string{"upgrade"}, with...), "--set", "fluxURL=https://other.example.com")...)
		if got := c.takes("kubectl", "", "get", "-n", shape.namespace, "configmaps", "-l", managed, "-o", `jsonpath={.items[*].data.sluice\.yaml}`); !strings.Contains(got, "https://other.example.com") {
			t.Errorf("after the upgrade the configuration is %q", got)
		}
		rendered, err := helm(t, shape.values)
		if err != nil {
			t.Fatal(err)
		}
		for _, pod := range podsOf(t, rendered) {
			c.takes("kubectl", inNamespace(t, pod, shape.namespace), "create", "--validate=strict", "-f", "-")
		}
		for _, m := range rendered {
			if m.kind == "Pod" { // helm test
				c.takes("kubectl", inNamespace(t, string(m.text), shape.namespace), "create", "--validate=strict", "-f", "-")
			}
		}
		c.takes("helm", "", "uninstall", "agent", "-n", shape.namespace)
		if got := c.takes("kubectl", "", "get", "daemonsets,deployments,services,configmaps,networkpolicies,podmonitors,serviceaccounts,clusterroles,clusterrolebindings", "-n", shape.namespace, "-l", managed, "-o", "name"); strings.Contains(got, "/") {
			t.Errorf("after helm uninstall there are %s", got)
		}
	}
	c.refuses("additional properties 'hostport' not allowed", "helm", "", "install", "agent", chartPath, "-n", "chart", "--set", "hostport=true")
}

func inNamespace(t *testing.T, text, namespace string) string {
	t.Helper()
	var pod map[string]any
	manifest{text: []byte(text)}.into(t, &pod)
	pod["metadata"].(map[string]any)["namespace"] = namespace
	out, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}
