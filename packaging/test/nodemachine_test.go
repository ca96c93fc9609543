//go:build !quick

package test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Addresses of the network that .ci/node makes for the test, and of this machine and
// the node in it.
const (
	gateway     = "10.77.0.1"
	nodeAddress = "10.77.0.2"
)

// A node is a virtual machine with containerd and a kubelet, which belongs to a cluster
// outside.
type node struct {
	*cluster
	console string        // what the machine prints
	gone    chan struct{} // closed when it is no more
}

// bootNode boots the disk that .ci/node has made. A second disk has what differs from run to
// run: programs, images, how to reach the API server.
func bootNode(t *testing.T, c *cluster) *node {
	t.Helper()
	dir := t.TempDir()
	disk := filepath.Join(dir, "node")
	if err := os.CopyFS(disk, os.DirFS("node")); err != nil {
		t.Fatal(err)
	}
	run(t, "chmod", "+x", filepath.Join(disk, "init"))
	c.write(filepath.Join(disk, "address"), nodeAddress)
	c.write(filepath.Join(disk, "gateway"), gateway)
	run(t, "cp", c.config, filepath.Join(c.tools, "controlplane"), filepath.Join(c.tools, "node"), filepath.Join(c.tools, "node.oci.tar"), disk)
	run(t, "cp", dist(t, "sluice-image.oci.tar"), filepath.Join(disk, "sluice.oci.tar"))
	image := filepath.Join(dir, "node.img")
	run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-d", disk, image, "400M")
	n := &node{cluster: c, console: filepath.Join(dir, "console"), gone: make(chan struct{})}
	run(t, "mkdir", filepath.Join(dir, "tmp")) // of what is written to the disk
	cmd := exec.Command("qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "1536", "-nodefaults", "-display", "none",
		"-kernel", filepath.Join(c.tools, "vmlinuz"), "-append", "root=/dev/nvme0n1 rw console=ttyS0 init=/boot/node panic=-1 quiet",
		"-drive", "file="+filepath.Join(c.tools, "root.img")+",if=none,id=root,format=raw,snapshot=on,cache=unsafe", "-device", "nvme,id=disks,serial=disks", "-device", "nvme-ns,drive=root,nsid=1",
		"-drive", "file="+image+",if=none,id=node,format=raw,snapshot=on", "-device", "nvme-ns,drive=node,nsid=2",
		"-netdev", "tap,id=net,ifname=tap0,script=no,downscript=no", "-device", "virtio-net-pci,netdev=net",
		"-device", "virtio-rng-pci", "-serial", "file:"+n.console, "-no-reboot")
	cmd.Env = append(os.Environ(), "TMPDIR="+filepath.Join(dir, "tmp"))
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		cmd.Wait()
		close(n.gone)
	}()
	t.Cleanup(func() {
		if t.Failed() {
			for _, log := range []string{"kubelet", "containerd", "kube-proxy"} {
				text, err := n.attempt("tail -n 40 /var/log/node/" + log)
				t.Logf("the end of the log of %s: %v\n%s", log, err, text)
			}
		}
		cmd.Process.Kill()
		<-n.gone
		if text, _ := os.ReadFile(n.console); t.Failed() {
			t.Logf("the end of the console: %s%s", said.String(), text[max(0, len(text)-4000):])
		}
	})
	n.within(10*time.Minute, "the node is ready", func() bool {
		out, _ := c.try("kubectl", "", "get", "node", "node", "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
		return out == "True"
	})
	return n
}

// within waits for what an emulated machine does, which may be slow.
func (n *node) within(limit time.Duration, what string, ok func() bool) {
	n.t.Helper()
	end := time.After(limit)
	for !ok() {
		select {
		case <-time.After(500 * time.Millisecond):
		case <-n.gone:
			n.t.Fatalf("the node has ended before: %s", what)
		case <-end:
			n.t.Fatalf("not within %s: %s", limit, what)
		}
	}
}

var shellClient = http.Client{Timeout: time.Minute}

// attempt runs a shell command on the node, as root.
func (n *node) attempt(command string) (string, error) {
	answer, err := shellClient.Post("http://"+nodeAddress+":7000", "text/plain", strings.NewReader(command))
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	out, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("the node answers %s", answer.Status)
	}
	return string(out), err
}

// sh runs one that must succeed.
func (n *node) sh(command string) string {
	n.t.Helper()
	out, err := n.attempt(command)
	if err != nil {
		n.t.Fatalf("on the node: %s: %v\n%s", command, err, out)
	}
	return out
}

// The kubelet signs its own certificate, and asks the API server whose token it is.
var kubeletClient = http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}

// logs reads what a container printed, from the kubelet, until it has ended.
func (n *node) logs(namespace, pod, container, query string) (io.ReadCloser, error) {
	r, err := http.NewRequest("GET", fmt.Sprintf("https://%s:10250/containerLogs/%s/%s/%s?%s", nodeAddress, namespace, pod, container, query), nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Authorization", "Bearer token")
	answer, err := kubeletClient.Do(r)
	if err == nil && answer.StatusCode != http.StatusOK {
		answer.Body.Close()
		err = fmt.Errorf("the kubelet answers %s", answer.Status)
	}
	if err != nil {
		return nil, err
	}
	return answer.Body, nil
}
