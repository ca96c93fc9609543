package origin

import (
	"strings"
	"testing"
)

const (
	idA  = "3f4ca8f0c0de6fb6a8bd6a6a0b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e"
	idB  = "91a2b3c4d5e6f708192a3b4c5d6e7f80a1b2c3d4e5f60718293a4b5c6d7e8f90"
	podA = "75a2b6d5-3949-4afb-ad0d-92ff0674e759"
	podU = "75a2b6d5_3949_4afb_ad0d_92ff0674e759"
	hash = "a3a1a0f0c3e0d6e7b8a9c0d1e2f30415" // of a static pod
)

// The spellings are those of the runtimes' documentation; the paths with steps
// upwards are what is seen from another cgroup namespace.
func TestControlGroups(t *testing.T) {
	a, aInPod := ref{container: idA}, ref{container: idA, pod: podA}
	for file, want := range map[string]ref{
		// version 2
		"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + podU + ".slice/cri-containerd-" + idA + ".scope\n":   aInPod,
		"0::/kubepods.slice/kubepods-pod" + podU + ".slice/cri-containerd-" + idA + ".scope\n":                                      aInPod,
		"0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + podU + ".slice/crio-" + idA + ".scope\n":           aInPod,
		"0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + podU + ".slice/crio-" + idA + ".scope/container\n": aInPod,
		"0::/kubepods/burstable/pod" + podA + "/" + idA + "\n":                                                                      aInPod,
		"0::/kubepods/pod" + hash + "/" + idA + "\n":                                                                                {container: idA, pod: hash},
		"0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod" + podU + ".slice/cri-containerd-" + idA + ".scope\n":        aInPod,
		"0::/../../kubepods-besteffort-pod" + podU + ".slice/cri-containerd-" + idA + ".scope\n":                                    aInPod,
		"0::/../cri-containerd-" + idA + ".scope\n":                                                                                 a,
		"0::/../../pod" + podA + "/" + idA + "\n":                                                                                   aInPod,
		"0::/system.slice/docker-" + idA + ".scope\n":                                                                               a,
		"0::/docker/" + idA + "\n": a,
		"0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + idA + ".scope/container\n":          a,
		"0::/machine.slice/libpod-" + idA + ".scope":                                                                a,
		"0::/system.slice/containerd.service/kubepods-burstable-pod" + podU + ".slice:cri-containerd:" + idA + "\n": aInPod,
		"0::/kubepods/pod" + podA + "/" + idA + "/init.scope\n":                                                     aInPod,
		"0::/kubepods/pod" + podA + "/" + idA + "/docker/" + idB + "\n":                                             aInPod, // Docker in a pod
		"0::/docker/" + idB + "/kubelet/kubepods/pod" + podA + "/" + idA + "\n":                                     aInPod, // a node that is a container
		"0::/kubepods/pod" + podA + "/" + idA + "/kubelet/kubepods/pod" + hash + "/" + idB + "\n":                   aInPod, // a node in a pod
		"0::/ecs/4b1c0e9a1d5f4c7e8a9b0c1d2e3f4a5b/4b1c0e9a1d5f4c7e8a9b0c1d2e3f4a5b-1234567890\n":                    {container: "4b1c0e9a1d5f4c7e8a9b0c1d2e3f4a5b-1234567890"},
		"0::/ecs/task/" + idA + "\n": a,
		"0::/kubepods/pod" + podA:    {pod: podA},
		// version 1, and both
		"12:memory:/kubepods/burstable/pod" + podA + "/" + idA + "\n11:cpu,cpuacct:/kubepods/burstable/pod" + podA + "/" + idA + "\n": aInPod,
		"9:name=systemd:/docker/" + idA + "\n8:pids:/docker/" + idA + "\n0::/system.slice/containerd.service\n":                       a,
		"3:cpuset:/\n2:memory:/docker/" + idA + "\n0::/\n":                                                                            a,
		"2:memory:/kubepods/pod" + podA + "\n1:pids:/kubepods/pod" + podA + "/" + idA + "\n":                                          aInPod,
		// nobody's
		"0::/\n":           {},
		"0::/init.scope\n": {},
		"0::/user.slice/user-0.slice/session-1.scope\n": {},
		"0::/system.slice/sshd.service":                 {},
		"0::/docker/" + idA[:63] + "\n":                 {},
		"0::/docker/" + strings.ToUpper(idA) + "\n":     {},
		"0::/podman\n":           {},
		"0::/pod-" + podA + "\n": {},
		"":                       {},
		"\n\n::\n0:\n":           {},
	} {
		if got := cgroupRef([]byte(file)); got != want {
			t.Errorf("cgroupRef(%q) = %+v, want %+v", file, got, want)
		}
	}
}

func TestClaims(t *testing.T) {
	for claim, want := range map[string]ref{
		idA:                          {container: idA},
		"ci-" + idA:                  {container: idA},
		"in-4026532001":              {inode: 4026532001},
		"ci-" + idA + ",in-42":       {container: idA, inode: 42},
		"it-false,cn-web,pu-" + podA: {pod: podA, name: "web"},
		"pu-" + podA:                 {pod: podA},
		podA:                         {pod: podA},
		"ci-4b1c0e9a1d5f4c7e8a9b0c1d2e3f4a5b-1234567890": {container: "4b1c0e9a1d5f4c7e8a9b0c1d2e3f4a5b-1234567890"},
		"in--1":      {},
		"in-":        {},
		"ci-x":       {},
		"pu-x":       {},
		"none":       {},
		"":           {},
		"en-" + podA: {},
	} {
		if got := claimRef(claim); got != want {
			t.Errorf("claimRef(%q) = %+v, want %+v", claim, got, want)
		}
	}
}

// FuzzRefs: whatever the kernel or a client says, only ids and uids come out.
func FuzzRefs(f *testing.F) {
	f.Add("0::/kubepods.slice/kubepods-pod"+podU+".slice/crio-"+idA+".scope/container\n", "it-true,cn-a,pu-"+podA)
	f.Add("1:memory:/docker/"+idA+"\n0::/../..", "ci-"+idA+",in-7")
	f.Fuzz(func(t *testing.T, file, claim string) {
		for _, r := range []ref{cgroupRef([]byte(file)), claimRef(claim)} {
			if r.container != "" && containerID(r.container) != r.container {
				t.Errorf("container %q", r.container)
			}
			if r.pod != "" && !isUID(r.pod) {
				t.Errorf("pod %q", r.pod)
			}
		}
	})
}
