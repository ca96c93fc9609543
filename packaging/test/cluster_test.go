//go:build !quick

package test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A cluster is what of Kubernetes takes objects, an etcd and an API server. Without
// startControllers what it takes stays as it is.
type cluster struct {
	t      *testing.T
	tools  string // folder with etcd, kube-apiserver, kubectl, helm
	dir    string // of its files
	config string // kubeconfig, with all rights
}

// startCluster starts one from the folder that .ci/controlplane has filled, whose API server
// listens on an address of this machine and has more flags.
func startCluster(t *testing.T, address string, more ...string) *cluster {
	t.Helper()
	dir := t.TempDir()
	c := &cluster{t: t, tools: os.Getenv("SLUICE_CONTROL_PLANE"), dir: dir}
	if c.tools == "" {
		t.Skip("needs SLUICE_CONTROL_PLANE, the folder that .ci/controlplane fills")
	}
	ports := freePorts(t, 3)
	c.start("etcd", filepath.Join(dir, "etcd.log"), "--data-dir", filepath.Join(dir, "etcd"), "--unsafe-no-fsync",
		"--listen-client-urls", url("http", ports[0]), "--advertise-client-urls", url("http", ports[0]),
		"--listen-peer-urls", url("http", ports[1]), "--initial-advertise-peer-urls", url("http", ports[1]),
		"--initial-cluster", "default="+url("http", ports[1]))
	key := filepath.Join(dir, "accounts.key")
	writeKey(t, key)
	tokens := filepath.Join(dir, "tokens.csv")
	c.write(tokens, "token,admin,admin,system:masters\n")
	c.start("kube-apiserver", filepath.Join(dir, "apiserver.log"), append(more, "--etcd-servers", url("http", ports[0]),
		"--bind-address", address, "--secure-port", fmt.Sprint(ports[2]), "--cert-dir", filepath.Join(dir, "certs"),
		"--service-account-issuer", "https://kubernetes.default.svc", "--service-account-key-file", key, "--service-account-signing-key-file", key,
		"--token-auth-file", tokens, "--authorization-mode", "RBAC", "--service-cluster-ip-range", "10.96.0.0/16", "--endpoint-reconciler-type", "none")...)
	c.config = filepath.Join(dir, "kubeconfig")
	c.write(c.config, fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: test
clusters: [{name: test, cluster: {server: "https://%s:%d", certificate-authority-data: %s}}]
users: [{name: admin, user: {token: token}}]
contexts: [{name: test, context: {cluster: test, user: admin}}]
`, address, ports[2], c.certificate()))
	until(t, "the API server is ready", func() bool {
		_, err := c.try("kubectl", "", "get", "--raw", "/readyz")
		return err == nil
	})
	return c
}

// certificate is the API server's own, which it makes as it starts.
func (c *cluster) certificate() (base64ed string) {
	c.t.Helper()
	var text []byte
	until(c.t, "the API server has a certificate", func() (ok bool) {
		text, _ = os.ReadFile(filepath.Join(c.dir, "certs", "apiserver.crt"))
		_, err := tls.X509KeyPair(text, c.read("certs", "apiserver.key"))
		return err == nil
	})
	return base64.StdEncoding.EncodeToString(text)
}

func (c *cluster) read(name ...string) []byte {
	text, _ := os.ReadFile(filepath.Join(append([]string{c.dir}, name...)...))
	return text
}

// startControllers starts what does what the objects say, as far as no node is needed:
// makes pods of a DaemonSet, accounts, endpoints, and gives pods their node.
func (c *cluster) startControllers() {
	c.t.Helper()
	c.start("kube-controller-manager", filepath.Join(c.dir, "controller-manager.log"), "--kubeconfig", c.config, "--leader-elect=false",
		"--bind-address", "127.0.0.1", "--secure-port", fmt.Sprint(freePorts(c.t, 1)[0]), "--cert-dir", filepath.Join(c.dir, "controller-manager"),
		"--service-account-private-key-file", filepath.Join(c.dir, "accounts.key"), "--root-ca-file", filepath.Join(c.dir, "certs", "apiserver.crt"))
	c.start("kube-scheduler", filepath.Join(c.dir, "scheduler.log"), "--kubeconfig", c.config, "--leader-elect=false",
		"--bind-address", "127.0.0.1", "--secure-port", fmt.Sprint(freePorts(c.t, 1)[0]), "--cert-dir", filepath.Join(c.dir, "scheduler"))
}

func url(scheme string, port int) string { return fmt.Sprintf("%s://127.0.0.1:%d", scheme, port) }

// freePorts are ports of loopback that nobody listens on, all different.
func freePorts(t *testing.T, n int) (ports []int) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

func writeKey(t *testing.T, path string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) write(path, text string) {
	c.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// start runs a part until the test is over. The log of one that failed is shown.
func (c *cluster) start(name, logTo string, args ...string) {
	c.t.Helper()
	log, err := os.Create(logTo)
	if err != nil {
		c.t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(c.tools, name), args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		ended := time.AfterFunc(30*time.Second, func() { cmd.Process.Kill() })
		cmd.Wait()
		ended.Stop()
		log.Close()
		if text, _ := os.ReadFile(logTo); c.t.Failed() {
			c.t.Logf("the end of the log of %s:\n%s", name, text[max(0, len(text)-4000):])
		}
	})
}

// try runs kubectl or helm with a standard input.
func (c *cluster) try(tool, input string, args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(c.tools, tool), args...)
	home := filepath.Dir(c.config)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.config, "HOME="+home, "KUBECACHEDIR="+filepath.Join(home, "cache"))
	cmd.Stdin = strings.NewReader(input)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// takes runs one that must succeed, without a warning of the server.
func (c *cluster) takes(tool, input string, args ...string) string {
	c.t.Helper()
	out, err := c.try(tool, input, args...)
	if err != nil || strings.Contains(out, "Warning:") {
		c.t.Errorf("%s %s: %v\n%s", tool, strings.Join(args, " "), err, out)
	}
	return out
}

// refuses runs one that must fail, for a reason.
func (c *cluster) refuses(reason, tool, input string, args ...string) {
	c.t.Helper()
	out, err := c.try(tool, input, args...)
	if err == nil || !strings.Contains(out, reason) {
		c.t.Errorf("%s %s: got %v, want a refusal that says %q\n%s", tool, strings.Join(args, " "), err, reason, out)
	}
}
