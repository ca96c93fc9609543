package test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestImage runs the image with an OCI runtime, as nobody in particular, with a root
// folder that cannot be written and no capability, and sends to it.
func TestImage(t *testing.T) {
	archive := dist(t, "sluice-image.oci.tar")
	need(t, "skopeo", "umoci", "crun", "unshare", "nsenter")
	dir := t.TempDir()
	run(t, "skopeo", "copy", "-q", "--override-arch", "amd64", "oci-archive:"+archive, "oci:"+dir+"/oci:sluice")
	bundle := filepath.Join(dir, "bundle")
	run(t, "umoci", "unpack", "--image", dir+"/oci:sluice", bundle)
	prepareBundle(t, bundle, filepath.Join(dir, "state"))

	// The runtime wants the second version of control groups, and the container the
	// network of the shell around it: one of its own, with nothing but loopback.
	script := `mount -t cgroup2 none /sys/fs/cgroup && ip link set lo up && exec crun --root "$0/crun" run --bundle "$1" sluice`
	cmd := exec.Command("unshare", "--mount", "--net", "--cgroup", "sh", "-c", script, dir, bundle)
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	inside := func(args ...string) (string, error) {
		out, err := exec.Command("nsenter", append([]string{"-t", fmt.Sprint(cmd.Process.Pid), "-n", "--"}, args...)...).CombinedOutput()
		return string(out), err
	}
	stopped := false
	t.Cleanup(func() {
		if !stopped {
			cmd.Process.Kill()
			<-ended
		}
		if t.Failed() {
			t.Logf("the container's log:\n%s", log.String())
		}
	})
	health := exec.Command("nsenter", "-t", fmt.Sprint(cmd.Process.Pid), "-m", "-n", "--", "crun", "--root", dir+"/crun", "exec", "sluice", "/usr/bin/sluice", "doctor", "--quick")
	until(t, "the agent answers", func() bool {
		_, err := inside("curl", "-sf", "http://127.0.0.1:8127/readyz")
		return err == nil
	})
	if out, err := health.CombinedOutput(); err != nil {
		t.Errorf("the health check fails: %v\n%s", err, out)
	}
	sender := buildSender(t)
	if out, err := inside(sender, "udp", "127.0.0.1:8125", "image.sent", "100", "1000"); err != nil {
		t.Fatalf("send: %v\n%s", err, out)
	}
	until(t, "all is taken", func() bool {
		var s status
		out, _ := inside("curl", "-sf", "http://127.0.0.1:8127/api/agent/status")
		return json.Unmarshal([]byte(out), &s) == nil && len(s.Listeners) > 0 && s.Listeners[0].Samples == 100
	})
	pid := strings.TrimSpace(run(t, "pgrep", "-f", "^/usr/bin/sluice run --config /etc/sluice/sluice.yaml$", "--ns", fmt.Sprint(cmd.Process.Pid), "--nslist", "net"))
	status, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Uid:\t65532\t65532\t65532\t65532", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("the agent's process has not %q:\n%s", want, status)
		}
	}
	cmd.Process.Signal(syscall.SIGTERM) // which the runtime passes on
	select {
	case err := <-ended:
		if stopped = true; err != nil {
			t.Errorf("the container ended with %v", err)
		}
	case <-time.After(2 * time.Minute):
		t.Error("the container has not ended within 2 minutes of a SIGTERM")
	}
	if !strings.Contains(log.String(), "msg=stopped") || !strings.Contains(log.String(), "accepted=100") {
		t.Errorf("the agent has not said that it stopped with 100 samples")
	}
	if found, _ := filepath.Glob(filepath.Join(dir, "state", "*.seg")); len(found) != 1 {
		t.Errorf("the volume has the segments %v, want one", found)
	}
}

// prepareBundle makes the container as strict as a cluster would: a folder for the
// spool is all it can write to. As an engine makes a new volume, it is a copy of the
// image's folder with its owner.
func prepareBundle(t *testing.T, bundle, state string) {
	t.Helper()
	run(t, "cp", "-a", filepath.Join(bundle, "rootfs/var/lib/sluice"), state)
	path := filepath.Join(bundle, "config.json")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var config map[string]any
	if err := json.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	process := config["process"].(map[string]any)
	process["terminal"] = false
	process["noNewPrivileges"] = true
	process["capabilities"] = map[string]any{}
	process["rlimits"] = []any{}
	config["root"].(map[string]any)["readonly"] = true
	mounts := config["mounts"].([]any)
	kept := []any{map[string]any{"destination": "/var/lib/sluice", "source": state, "type": "bind", "options": []string{"bind", "rw"}}}
	for _, m := range mounts {
		if d := m.(map[string]any)["destination"].(string); d == "/proc" || d == "/dev" {
			kept = append([]any{m}, kept...)
		}
	}
	config["mounts"] = kept
	linux := config["linux"].(map[string]any)
	delete(linux, "resources")
	linux["namespaces"] = []map[string]string{{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}}
	text, err = json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 2 minutes: %s", what)
		}
	}
}
