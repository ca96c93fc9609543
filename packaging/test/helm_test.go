//go:build !quick

package test

import (
	"encoding/json"
	"maps"
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/pod-security-admission/api"
	"sigs.k8s.io/yaml"
)

const chartPath = "../helm/sluice"

func loadChart(t *testing.T) *chart.Chart {
	t.Helper()
	c, err := loader.Load(chartPath)
	if err == nil {
		err = c.Validate()
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// helm renders the chart as helm install sluice --namespace sluice does.
func helm(t *testing.T, values map[string]any) (all []manifest, err error) {
	t.Helper()
	return render(t, loadChart(t), values)
}

func render(t *testing.T, c *chart.Chart, values map[string]any) (all []manifest, err error) {
	t.Helper()
	given, err := chartutil.ToRenderValues(c, values, chartutil.ReleaseOptions{Name: "sluice", Namespace: "sluice", IsInstall: true}, nil)
	if err != nil {
		return nil, err
	}
	files, err := engine.Render(c, given)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if strings.HasPrefix(path.Base(name), "_") {
			continue
		}
		for text := range strings.SplitSeq(files[name], "\n---\n") {
			if strings.TrimSpace(text) == "" {
				continue
			}
			var head struct {
				Kind     string
				Metadata struct{ Name string }
			}
			if err := yaml.Unmarshal([]byte(text), &head); err != nil {
				t.Fatalf("%s: %v\n%s", name, err, text)
			}
			all = append(all, manifest{head.Kind, head.Metadata.Name, []byte(text)})
		}
	}
	return all, nil
}

// everything is what overlays/daemonset has.
var everything = map[string]any{"hostPort": true, "socket": true, "hostSpool": true, "networkPolicy": true, "origin": map[string]any{"enabled": true}}

// sidecarExample is what overlays/sidecar has.
var sidecarExample = map[string]any{"form": "sidecar", "sidecar": map[string]any{"example": true}}

// TestChart renders the chart, holds its objects to the published types and to the level of
// Pod Security that they claim, and to those that kustomize makes: they differ in the labels
// that Helm wants, and in comments.
func TestChart(t *testing.T) {
	for _, c := range []struct {
		dir    string
		values map[string]any
		level  api.Level
	}{
		{"base", nil, api.LevelRestricted},
		{"overlays/daemonset", everything, api.LevelPrivileged},
		{"overlays/sidecar", sidecarExample, api.LevelRestricted},
	} {
		t.Run(c.dir, func(t *testing.T) {
			rendered, err := helm(t, c.values)
			if err != nil {
				t.Fatal(err)
			}
			ours := map[string]any{}
			for _, m := range rendered {
				if m.kind == "Pod" { // helm test
					var p corev1.Pod
					m.into(t, &p)
					checkPod(t, api.LevelRestricted, m.name, &corev1.PodTemplateSpec{ObjectMeta: p.ObjectMeta, Spec: p.Spec})
					continue
				}
				ours[m.kind+" "+m.name] = normal(t, m)
			}
			checkAll(t, rendered, c.level)
			theirs := map[string]any{}
			for _, m := range kustomize(t, c.dir) {
				if m.kind != "Namespace" { // helm has --create-namespace
					theirs[m.kind+" "+m.name] = normal(t, m)
				}
			}
			if got, want := slices.Sorted(maps.Keys(ours)), slices.Sorted(maps.Keys(theirs)); !slices.Equal(got, want) {
				t.Fatalf("the chart makes %q, kustomize %q", got, want)
			}
			for what := range theirs {
				if !reflect.DeepEqual(ours[what], theirs[what]) {
					t.Errorf("%s: the chart makes\n%s\nkustomize\n%s", what, show(ours[what]), show(theirs[what]))
				}
			}
		})
	}
}

// normal is an object without what may differ: Helm's labels, and the order, comments and
// layout of the configuration in a ConfigMap.
func normal(t *testing.T, m manifest) any {
	t.Helper()
	var object map[string]any
	if err := yaml.Unmarshal(m.text, &object); err != nil {
		t.Fatal(err)
	}
	if data, ok := object["data"].(map[string]any); ok {
		var inner any
		if err := yaml.Unmarshal([]byte(data["sluice.yaml"].(string)), &inner); err != nil {
			t.Fatal(err)
		}
		data["sluice.yaml"] = inner
	}
	strip(object)
	if meta := object["metadata"].(map[string]any); meta["namespace"] == nil && !strings.HasPrefix(m.kind, "Cluster") {
		meta["namespace"] = "sluice" // the base leaves it to whoever applies it
	}
	return object
}

// unordered are lists whose order means nothing.
var unordered = []string{"env", "volumeMounts", "volumes"}

func strip(v any) {
	switch v := v.(type) {
	case map[string]any:
		for _, label := range []string{"app.kubernetes.io/instance", "app.kubernetes.io/managed-by", "helm.sh/chart"} {
			delete(v, label)
		}
		for key, inner := range v {
			strip(inner)
			if list, ok := inner.([]any); ok && slices.Contains(unordered, key) {
				slices.SortFunc(list, func(x, y any) int {
					return strings.Compare(x.(map[string]any)["name"].(string), y.(map[string]any)["name"].(string))
				})
			}
		}
	case []any:
		for _, inner := range v {
			strip(inner)
		}
	}
}

func show(v any) string {
	text, _ := json.MarshalIndent(v, "", " ")
	return string(text)
}

// TestChartValues: the schema refuses what would be ignored, and takes what there is.
func TestChartValues(t *testing.T) {
	for _, bad := range []map[string]any{
		{"hostport": true},
		{"apiKey": "sk_live_x"},
		{"existingSecret": ""},
		{"fluxURL": "http://flux.example.com"},
		{"image": map[string]any{"digest": "latest"}},
		{"origin": map[string]any{"tags": []any{"node"}}},
		{"spool": map[string]any{"maxBytes": 192}},
		{"config": map[string]any{}},
		{"form": "deployment"},
		{"form": "sidecar", "hostPort": true}, // which nothing would come of
		{"form": "sidecar", "podMonitor": true},
		{"form": "sidecar", "origin": map[string]any{"enabled": true}},
		{"sidecar": map[string]any{"example": true}},
		{"form": "sidecar", "sidecar": map[string]any{"image": "x"}},
	} {
		if _, err := helm(t, bad); err == nil {
			t.Errorf("%v is taken", bad)
		}
	}
	digest := "sha256:" + strings.Repeat("0", 64)
	good, err := helm(t, map[string]any{"config": "listen:\n  udp: []\n", "podMonitor": true, "image": map[string]any{"digest": digest, "pullPolicy": "Always"},
		"imagePullSecrets": []any{map[string]any{"name": "pull"}}, "nodeSelector": map[string]any{"a": "b"}, "podAnnotations": map[string]any{"c": "d"}})
	if err != nil {
		t.Fatal(err)
	}
	all := ""
	for _, m := range good {
		all += string(m.text)
		if m.kind == "ConfigMap" {
			var c corev1.ConfigMap
			m.into(t, &c)
			if c.Data["sluice.yaml"] != "listen:\n  udp: []\n" {
				t.Errorf("the configuration is %q", c.Data["sluice.yaml"])
			}
		}
	}
	for _, want := range []string{"kind: PodMonitor", "image: sluice@" + digest, "imagePullPolicy: Always", "name: pull", "a: b", "c: d"} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in what is made", want)
		}
	}
}

// TestChartPort: the network policy lets out to where Flux is.
func TestChartPort(t *testing.T) {
	for url, want := range map[string]int{
		"https://flux.example.com":           443,
		"https://flux.example.com:8443":      8443,
		"https://flux.example.com:8443/flux": 8443,
		"https://[2001:db8::1]":              443,
		"https://[2001:db8::1]:444":          444,
	} {
		rendered, err := helm(t, map[string]any{"networkPolicy": true, "fluxURL": url})
		if err != nil {
			t.Fatal(err)
		}
		got := 0
		for _, m := range rendered {
			if m.kind == "NetworkPolicy" {
				var p networkingv1.NetworkPolicy
				m.into(t, &p)
				got = p.Spec.Egress[1].Ports[0].Port.IntValue()
			}
		}
		if got != want {
			t.Errorf("%s: the policy lets out to port %d, want %d", url, got, want)
		}
	}
}

// TestSidecarTemplates puts the sidecar into the pod of a chart that depends on this one,
// as its comment says. The pod is then that of overlays/sidecar, and all that the
// dependency makes by itself is the configuration.
func TestSidecarTemplates(t *testing.T) {
	const deployment = `apiVersion: apps/v1
kind: Deployment
metadata:
  name: shop
spec:
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      automountServiceAccountToken: false
      securityContext: {runAsNonRoot: true, runAsUser: 1000, fsGroup: 65532, seccompProfile: {type: RuntimeDefault}}
      initContainers: {{- include "sluice.sidecar" .Subcharts.sluice | nindent 8 }}
      containers:
        - name: shop
          image: shop:1
          securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
      volumes: {{- include "sluice.sidecarVolumes" .Subcharts.sluice | nindent 8 }}
`
	shop := &chart.Chart{
		Metadata:  &chart.Metadata{APIVersion: "v2", Name: "shop", Version: "1.0.0", Dependencies: []*chart.Dependency{{Name: "sluice", Version: "0.1.0"}}},
		Templates: []*chart.File{{Name: "templates/deployment.yaml", Data: []byte(deployment)}},
	}
	shop.SetDependencies(loadChart(t))
	rendered, err := render(t, shop, map[string]any{"sluice": map[string]any{"form": "sidecar", "image": map[string]any{"pullPolicy": "Always"}}})
	if err != nil {
		t.Fatal(err)
	}
	checkAll(t, rendered, api.LevelRestricted)
	if len(rendered) != 2 {
		t.Fatalf("%d objects are made, want the Deployment and a ConfigMap", len(rendered))
	}
	var got, want appsv1.Deployment
	for _, m := range rendered {
		if m.kind == "Deployment" {
			m.into(t, &got)
		} else if m.name != "sluice-sidecar" { // after the release
			t.Errorf("the configuration is called %s", m.name)
		}
	}
	for _, m := range kustomize(t, "overlays/sidecar") {
		if m.kind == "Deployment" {
			m.into(t, &want)
		}
	}
	sidecar := &want.Spec.Template.Spec
	sidecar.InitContainers[0].ImagePullPolicy = corev1.PullAlways
	if pod := &got.Spec.Template.Spec; !reflect.DeepEqual(pod.InitContainers, sidecar.InitContainers) || !reflect.DeepEqual(pod.Volumes, sidecar.Volumes) {
		t.Errorf("the pod has\n%s\n%s\nkustomize's\n%s\n%s", show(pod.InitContainers), show(pod.Volumes), show(sidecar.InitContainers), show(sidecar.Volumes))
	}
}
