//go:build !quick

package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// A manifest is one rendered object.
type manifest struct {
	kind, name string
	text       []byte
}

func (m manifest) into(t *testing.T, object any) {
	t.Helper()
	if err := yaml.UnmarshalStrict(m.text, object); err != nil {
		t.Errorf("%s %s: %v", m.kind, m.name, err)
	}
}

// kustomize renders a folder of packaging/kubernetes.
func kustomize(t *testing.T, dir string) (all []manifest) {
	t.Helper()
	found, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), filepath.Join("..", "kubernetes", dir))
	if err != nil {
		t.Fatalf("kustomize %s: %v", dir, err)
	}
	for _, r := range found.Resources() {
		text, err := r.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, manifest{r.GetKind(), r.GetName(), text})
	}
	return all
}

// TestManifests renders what is shipped for Kubernetes, decodes it strictly as the
// published types, and holds it to the level of Pod Security that it claims. The
// configurations in it are checked by the program itself.
func TestManifests(t *testing.T) {
	for dir, level := range map[string]api.Level{
		"base":               api.LevelRestricted,
		"overlays/sidecar":   api.LevelRestricted,
		"overlays/daemonset": api.LevelPrivileged,
	} {
		t.Run(dir, func(t *testing.T) {
			checkAll(t, kustomize(t, dir), level)
		})
	}
}

// checkAll decodes objects and holds the one that has pods to a level of Pod Security.
func checkAll(t *testing.T, all []manifest, level api.Level) {
	t.Helper()
	pods := 0
	for _, m := range all {
		switch m.kind {
		case "DaemonSet":
			var d appsv1.DaemonSet
			m.into(t, &d)
			checkPod(t, level, m.name, &d.Spec.Template)
			pods++
		case "Deployment":
			var d appsv1.Deployment
			m.into(t, &d)
			checkPod(t, level, m.name, &d.Spec.Template)
			pods++
		case "ConfigMap":
			var c corev1.ConfigMap
			m.into(t, &c)
			checkConfig(t, c.Data["sluice.yaml"])
		case "Service":
			m.into(t, &corev1.Service{})
		case "ServiceAccount":
			m.into(t, &corev1.ServiceAccount{})
		case "Pod":
			m.into(t, &corev1.Pod{})
		case "Namespace":
			m.into(t, &corev1.Namespace{})
		case "NetworkPolicy":
			m.into(t, &networkingv1.NetworkPolicy{})
		case "ClusterRole":
			var r rbacv1.ClusterRole
			m.into(t, &r)
			checkRole(t, &r)
		case "ClusterRoleBinding":
			var b rbacv1.ClusterRoleBinding
			m.into(t, &b)
			if len(b.Subjects) != 1 || b.Subjects[0].Name != "sluice" || b.Subjects[0].Namespace != "sluice" || b.RoleRef.Name != "sluice" {
				t.Errorf("the role is given to %v", b.Subjects)
			}
		default:
			t.Errorf("a %s, which no case of this test decodes", m.kind)
		}
	}
	if pods != 1 {
		t.Errorf("%d kinds of pods, want 1", pods)
	}
}

// checkRole: to read which pods the node has is all that the agent may ever do.
func checkRole(t *testing.T, r *rbacv1.ClusterRole) {
	t.Helper()
	want := []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"nodes/pods"}, Verbs: []string{"get"}}}
	if !reflect.DeepEqual(r.Rules, want) {
		t.Errorf("the role allows %v, want %v", r.Rules, want)
	}
}

func checkPod(t *testing.T, level api.Level, name string, p *corev1.PodTemplateSpec) {
	t.Helper()
	checks, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	at := func(l api.Level) string {
		result := policy.AggregateCheckResults(checks.EvaluatePod(api.LevelVersion{Level: l, Version: api.LatestVersion()}, &p.ObjectMeta, &p.Spec))
		if result.Allowed {
			return ""
		}
		return result.ForbiddenDetail()
	}
	if why := at(level); why != "" {
		t.Errorf("%s is not %s: %s", name, level, why)
	}
	if level == api.LevelPrivileged && at(api.LevelBaseline) == "" {
		t.Errorf("%s is said to be privileged and is not", name)
	}
	for _, c := range append(p.Spec.InitContainers, p.Spec.Containers...) {
		if !strings.Contains(c.Image, "sluice") {
			continue
		}
		if c.SecurityContext.ReadOnlyRootFilesystem == nil || !*c.SecurityContext.ReadOnlyRootFilesystem {
			t.Errorf("%s can write to its root folder", c.Name)
		}
		for _, v := range c.VolumeMounts {
			if v.SubPath != "" {
				t.Errorf("%s mounts %s by subPath, which is never updated", c.Name, v.Name)
			}
		}
	}
}

// checkConfig has the program read a configuration as it would in the pod.
func checkConfig(t *testing.T, text string) {
	t.Helper()
	binary := dist(t, "linux-amd64/sluice")
	dir := t.TempDir()
	key := filepath.Join(dir, "flux_api_key")
	if err := os.WriteFile(key, []byte("sk_live_x"), 0o600); err != nil {
		t.Fatal(err)
	}
	text = strings.ReplaceAll(text, "/etc/sluice/keys/flux_api_key", key)
	file := filepath.Join(dir, "sluice.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "check", "--config", file)
	cmd.Env = append(os.Environ(), "NODE_NAME=n", "NODE_IP=10.0.0.1", "POD_NAME=p", "POD_NAMESPACE=s")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("the configuration is refused: %v\n%s", err, out)
	}
}

// TestExecProbes: a probe that starts a program has longer than the second that Kubernetes gives
// it otherwise. On a busy node it took longer than that (docs/kubernetes.md, "On a node").
func TestExecProbes(t *testing.T) {
	found := 0
	for _, m := range kustomize(t, "overlays/sidecar") {
		if m.kind != "Deployment" {
			continue
		}
		var d appsv1.Deployment
		m.into(t, &d)
		for _, c := range d.Spec.Template.Spec.InitContainers {
			for _, probe := range []*corev1.Probe{c.StartupProbe, c.LivenessProbe} {
				if probe == nil || probe.Exec == nil {
					continue
				}
				if found++; probe.TimeoutSeconds < 5 {
					t.Errorf("%s has %d s for %v", c.Name, probe.TimeoutSeconds, probe.Exec.Command)
				}
			}
		}
	}
	if found != 2 {
		t.Errorf("found %d probes that start a program, want 2", found)
	}
}
