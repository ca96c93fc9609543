package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// probe sends a line through each listener that the agent says it has, and waits
// until the agent shows it.
func (d *doctor) probe(ctx context.Context) {
	for _, l := range d.status.Listeners {
		kind, addr, _ := strings.Cut(l.Name, ":")
		what := "listener " + l.Name
		var took time.Duration
		var err error
		switch kind {
		case "udp", "unixgram", "unix":
			took, err = d.probeSocket(ctx, l.Name, kind, addr)
		case "http":
			took, err = d.probeHTTP(ctx)
		default:
			d.find(skipped, what, "this version does not know how to probe it", "")
			continue
		}
		if err != nil {
			d.find(failing, what, "a probe was sent and lost: "+err.Error(), "restart the agent; if programs send to it, look for a firewall, or for who else has its address (ss -lunxp)")
			continue
		}
		d.find(healthy, what, fmt.Sprintf("a probe arrived after %s", took.Round(10*time.Microsecond)), "")
	}
	if l := d.config.Listen; len(l.UDP)+len(l.Unixgram)+len(l.Unix) == 0 && l.HTTP == "" {
		d.find(failing, "listener", "the configuration has none", "set listen.udp")
	}
}

func (d *doctor) probeSocket(ctx context.Context, listener, kind, addr string) (took time.Duration, err error) {
	name := fmt.Sprintf("%s%08x", probeName, rand.Uint32())
	line := []byte(name + ":1|c\n")
	ctx, cancel := context.WithTimeout(ctx, probeWait)
	defer cancel()
	body, err := d.api.open(ctx, http.MethodGet, "/api/agent/tail?"+url.Values{"refused": {"1"}, "transport": {listener}, "rate": {"10000"}}.Encode(), nil)
	if err != nil {
		return 0, err
	}
	defer body.Close()
	began := time.Now()
	if kind == "udp" {
		host, port, _ := net.SplitHostPort(addr)
		if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
			addr = net.JoinHostPort(map[bool]string{true: "127.0.0.1", false: "::1"}[ip.To4() != nil], port)
		}
	}
	conn, err := net.Dial(kind, addr)
	if err != nil {
		return 0, cause(err)
	}
	defer conn.Close()
	if kind == "unix" { // frames of a stream have their length before them
		line = append([]byte{byte(len(line)), 0, 0, 0}, line...)
	}
	if _, err := conn.Write(line); err != nil {
		return 0, cause(err)
	}
	found := false
	err = eachEvent(body, func(event string, data []byte) (bool, error) {
		var l tailLine
		found = event == "line" && json.Unmarshal(data, &l) == nil && strings.HasPrefix(l.Line, name)
		return !found, nil
	})
	if !found {
		return 0, errNotSeen
	}
	return time.Since(began), err
}

// probeHTTP posts an item that is refused for its name.
func (d *doctor) probeHTTP(ctx context.Context) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, probeWait)
	defer cancel()
	item := fmt.Sprintf(`{"name":"%s%08x","type":"counter","value":1}`, probeName, rand.Uint32())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.api.base+"/api/v1/metrics", strings.NewReader(item))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	if d.api.token != "" {
		req.Header.Set("Authorization", "Bearer "+d.api.token)
	}
	began := time.Now()
	resp, err := d.api.http.Do(req)
	if err != nil {
		return 0, cause(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if resp.StatusCode/100 != 4 || !strings.Contains(string(text), "name") {
		return 0, fmt.Errorf("answered %s", resp.Status)
	}
	return time.Since(began), nil
}

// checkBuffers compares what the kernel granted with what was asked for.
func (d *doctor) checkBuffers() {
	asked := int(d.config.Listen.ReceiveBuffer)
	for _, l := range d.status.Listeners {
		if l.ReceiveBuffer > 0 && l.ReceiveBuffer < asked {
			limit, _ := os.ReadFile("/proc/sys/net/core/rmem_max")
			d.find(warning, "receive buffer of "+l.Name, fmt.Sprintf("the kernel granted %s of %s (net.core.rmem_max is %s)", size(int64(l.ReceiveBuffer)), size(int64(asked)), strings.TrimSpace(string(limit))),
				fmt.Sprintf("sysctl -w net.core.rmem_max=%d, and the same in /etc/sysctl.d/ to keep it; then restart the agent", asked))
		}
		if l.KernelDropped > 0 {
			d.find(warning, "receive buffer of "+l.Name, number(l.KernelDropped)+" packets were lost before they could be read", "raise listen.receive_buffer, or let programs send to a Unix socket")
		}
	}
}

// nobody is the user and the group that sockets are tried as: they own nothing and are
// in no group (nobody and nogroup of the Filesystem Hierarchy's systems).
const nobody = 65534

// checkSockets looks at socket files as a program of another user sees them. As root it
// tries; else modes have to tell.
func (d *doctor) checkSockets() {
	for _, s := range sockets(d) {
		what := "socket " + s.path
		info, err := os.Lstat(s.path)
		if err != nil {
			d.find(failing, what, "programs cannot send to it: "+cause(err).Error(), "start the agent; if it runs, restart it: somebody has removed the file")
			continue
		}
		if info.Mode().Type() != os.ModeSocket {
			d.find(failing, what, "there is something else than a socket", "remove it, and restart the agent")
			continue
		}
		mode := info.Mode().Perm()
		tried := ""
		err = connectAs(nobody, s.network, s.path)
		if err == nil || errors.Is(err, fs.ErrPermission) {
			tried = ", tried as another user"
		}
		blocked := blockedBy(s.path, mode)
		if mode&0o002 != 0 && blocked == "" && errors.Is(err, fs.ErrPermission) {
			blocked = "connect as another user: " + cause(err).Error()
		}
		switch {
		case s.mode&^mode&0o222 != 0: // wider is what a systemd unit may want
			d.find(failing, what, fmt.Sprintf("its mode is %04o, and the configuration lets more users send: %04o", mode, s.mode), fmt.Sprintf("chmod %04o %s, or correct SocketMode= of the unit that opens it", s.mode, s.path))
		case blocked != "":
			d.find(failing, what, fmt.Sprintf("its mode %04o lets others send, but a folder above does not let them in: %s", mode, blocked), "chmod o+x (or g+x) that folder")
		case mode&0o002 != 0:
			d.find(healthy, what, fmt.Sprintf("mode %04o: every user can send%s", mode, tried), "")
		case mode&0o020 != 0:
			d.find(healthy, what, fmt.Sprintf("mode %04o, owner and group %s: other users cannot send%s", mode, ownerOf(info), tried), "put programs into the group, or set a mode of \"0666\"")
		default:
			d.find(warning, what, fmt.Sprintf("mode %04o, owner and group %s: only the owner can send", mode, ownerOf(info)), "set mode: \"0660\" and a group")
		}
	}
}

// blockedBy finds a folder above a socket that does not let in whom its mode lets send.
func blockedBy(path string, mode fs.FileMode) (why string) {
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		parent, err := os.Stat(dir)
		if err != nil {
			return why
		}
		if has := parent.Mode().Perm(); mode&0o002 != 0 && has&0o001 == 0 || mode&0o022 == 0o020 && has&0o011 == 0 {
			why = fmt.Sprintf("%s has mode %04o", dir, has)
		}
		if dir == filepath.Dir(dir) {
			return why
		}
	}
}

// A socketFile is one that the configuration names, with the mode it gives it.
type socketFile struct {
	network, path string
	mode          fs.FileMode
}

func sockets(d *doctor) (list []socketFile) {
	for _, s := range d.config.Listen.Unixgram {
		list = append(list, socketFile{"unixgram", s.Path, s.Mode.Perm()})
	}
	for _, s := range d.config.Listen.Unix {
		list = append(list, socketFile{"unix", s.Path, s.Mode.Perm()})
	}
	if path, ok := strings.CutPrefix(d.config.Listen.HTTP, "unix:"); ok {
		list = append(list, socketFile{"unix", path, 0o660})
	}
	return list
}
