package origin

import (
	"bytes"
	"strconv"
	"strings"
)

// A ref says which container is meant, as far as something tells.
type ref struct {
	container string // its id, "" if it is not known
	pod       string // uid of its pod, "" if it is not known
	name      string // of the container in the pod, "" if it is not known
	inode     uint64 // of the container's control group; 0 if it is not known
}

// cgroupRef reads what /proc/PID/cgroup says (cgroups(7)): a line for each hierarchy
// of version 1, and one that begins with 0:: for version 2. The first line counts
// that names a container, else the first that names a pod.
func cgroupRef(file []byte) (found ref) {
	for line := range bytes.Lines(file) {
		_, rest, ok := bytes.Cut(bytes.TrimRight(line, "\n"), []byte(":"))
		_, path, more := bytes.Cut(rest, []byte(":"))
		if !ok || !more {
			continue
		}
		r := pathRef(string(path))
		if r.container != "" {
			return r
		}
		if found.pod == "" {
			found = r
		}
	}
	return found
}

// pathRef reads the path of a control group. Runtimes name a container's:
//
//	/kubepods/burstable/pod<uid>/<id>                                      cgroupfs
//	/kubepods.slice/kubepods-pod<uid>.slice/cri-containerd-<id>.scope      systemd
//	/kubepods.slice/kubepods-pod<uid>.slice/crio-<id>.scope[/container]    CRI-O
//	/system.slice/kubepods-pod<uid>.slice:cri-containerd:<id>              containerd with cgroupfs under systemd
//	/docker/<id>   /system.slice/docker-<id>.scope                         Docker
//	/user.slice/.../libpod-<id>.scope[/container]                          Podman
//	/ecs/<task>/<id>   /ecs/<task>/<task>-<number>                         Amazon ECS
//
// and, seen from another cgroup namespace, the same behind some /.. steps. Of
// several the first counts, for what runs in it may make groups of its own; but
// what stands before a pod is its node, which can be a container, too.
func pathRef(path string) (r ref) {
	for element := range strings.SplitSeq(path, "/") {
		if uid := podUID(element); uid != "" && r.pod == "" {
			r = ref{pod: uid}
		}
		if r.container == "" {
			r.container = containerID(element)
		}
	}
	return r
}

// containerID returns the id that ends an element of a path, or "".
func containerID(element string) string {
	element = strings.TrimSuffix(element, ".scope")
	if i := strings.LastIndexAny(element, "-:"); i >= 0 {
		if task := element[:i]; len(task) == 32 && isHex(task) && isDigits(element[i+1:]) {
			return element
		}
		element = element[i+1:]
	}
	if len(element) == 64 && isHex(element) {
		return element
	}
	return ""
}

// podUID returns the uid in an element such as pod<uid> and
// kubepods-burstable-pod<uid>.slice, where systemd has underscores for hyphens, or "".
// That of a static pod is a hash without any.
func podUID(element string) string {
	element, _, _ = strings.Cut(element, ":")
	element = strings.TrimSuffix(element, ".slice")
	if i := strings.LastIndex(element, "-pod"); i >= 0 && strings.Contains(element[:i+1], "kubepods-") {
		element = element[i+1:]
	}
	uid, ok := strings.CutPrefix(element, "pod")
	uid = strings.ReplaceAll(uid, "_", "-")
	if !ok || !isUID(uid) {
		return ""
	}
	return uid
}

// isUID tells whether s is a UUID, or 32 hexadecimal digits.
func isUID(s string) bool {
	plain := strings.ReplaceAll(s, "-", "")
	return len(plain) == 32 && isHex(plain) && (len(s) == 32 || len(s) == 36 && s[8] == '-' && s[13] == '-' && s[18] == '-' && s[23] == '-')
}

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return s != ""
}

func isDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// claimRef reads what a client says of itself. Datadog's clients write behind c: the
// id of their container, with or without ci- before it, or in- and the inode of its
// control group; both with a comma between. Behind e: stand the parts it- (whether in
// an init container), cn- (the container's name) and pu- (the pod's uid). The tag
// dd.internal.entity_id is the pod's uid, or en- and more.
func claimRef(claim string) (r ref) {
	for part := range strings.SplitSeq(claim, ",") {
		kind, value, ok := strings.Cut(part, "-")
		switch {
		case ok && kind == "ci":
			r.container = containerID(value)
		case ok && kind == "in":
			r.inode, _ = strconv.ParseUint(value, 10, 64)
		case ok && kind == "pu":
			if isUID(value) {
				r.pod = value
			}
		case ok && kind == "cn":
			r.name = value
		case isUID(part):
			r.pod = part
		case r.container == "":
			r.container = containerID(part)
		}
	}
	return r
}
