package configs

import (
	"maps"
	"net/url"
	"slices"
)

// origin checks what is said about containers. What Detect needs is asked for only
// when it is on, so that a file can be prepared.
func (k *checker) origin(o *Origin) {
	for _, f := range []struct{ key, file string }{{"map_file", o.MapFile}, {"kubelet_token_file", o.KubeletTokenFile},
		{"kubelet_ca_file", o.KubeletCAFile}, {"proc", o.Proc}, {"cgroups", o.Cgroups}} {
		if f.file != "" {
			k.absolute("origin."+f.key, f.file)
		}
	}
	if len(o.Labels) > maxTags {
		k.add("origin.labels", "has %d labels, over the limit of %d; take some out", len(o.Labels), maxTags)
		return
	}
	for _, label := range slices.Sorted(maps.Keys(o.Labels)) {
		at := joinKey("origin.labels", label)
		k.text(at, o.Labels[label], "")
		k.tagKey(at, o.Labels[label])
	}
	if o.Kubelet != "" {
		k.kubelet(o)
	}
	if o.Detect && o.Kubelet == "" && o.MapFile == "" && !slices.Contains(o.Tags, "container_id") {
		k.add("origin.detect", "nothing would be known of containers; set origin.kubelet or origin.map_file, or put container_id into origin.tags")
	}
	if o.Detect && (o.Proc == "" || o.Cgroups == "") {
		k.add("origin.detect", "needs the folders origin.proc and origin.cgroups; leave them out for /proc and /sys/fs/cgroup")
	}
}

// kubelet checks the address, to which the token goes: never unencrypted beyond
// loopback.
func (k *checker) kubelet(o *Origin) {
	const path = "origin.kubelet"
	u, err := url.Parse(o.Kubelet)
	switch {
	case err != nil || u.Scheme != "https" && u.Scheme != "http" || !validHost(u.Hostname()) || u.Path != "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		k.add(path, "%s is not the address of a kubelet; write it like https://10.0.0.1:10250, with https://[...] around an IPv6 address", k.show(path, o.Kubelet))
	case u.Scheme == "http" && !loopback(u.Hostname()) && o.KubeletTokenFile != "":
		k.add(path, "%s would show the token unencrypted; write https, or kubelet_token_file: \"\" for a port that asks for none", k.show(path, o.Kubelet))
	}
}
