package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"sluice/configs"
)

// A client asks a running agent over its HTTP listener.
type client struct {
	base  string // without a final slash
	token string
	http  *http.Client
}

// newClient finds the agent at addr, HOST:PORT or unix:PATH, or where the
// configuration says that it listens.
func newClient(cfg configs.Config, addr string) (*client, error) {
	addr = cmp.Or(addr, cfg.Listen.HTTP)
	if addr == "" {
		return nil, errors.New("listen.http is \"\": the agent answers nothing")
	}
	c := &client{http: &http.Client{}}
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		c.base = "http://localhost"
		c.http.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}}
	} else {
		c.base = "http://" + reachable(strings.TrimPrefix(addr, "http://"))
	}
	if file := cfg.Listen.HTTPTokenFile; file != "" {
		token, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("listen.http_token_file: %w", err)
		}
		c.token = strings.TrimSpace(string(token))
	}
	return c, nil
}

// reachable puts loopback in the place of an address that stands for all of them.
func reachable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	ip, bad := netip.ParseAddr(host)
	switch {
	case err != nil:
		return addr
	case host == "" || bad == nil && ip.IsUnspecified() && ip.Is4():
		return net.JoinHostPort("127.0.0.1", port)
	case bad == nil && ip.IsUnspecified():
		return net.JoinHostPort("::1", port)
	}
	return addr
}

// ask makes a request and hands the body of a good answer to read.
func (c *client) ask(ctx context.Context, method, path string, body any, read func(io.Reader) error) error {
	var content io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, content)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		hint := ""
		if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT) {
			hint = " (is sluice running? start it with: sluice run)"
		}
		return fmt.Errorf("ask %s: %w%s", c.base, cause(err), hint)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		var said struct{ Error string }
		if json.Unmarshal(b, &said) != nil || said.Error == "" {
			said.Error = strings.TrimSpace(string(b[:min(len(b), 200)]))
		}
		return fmt.Errorf("ask %s%s: status %d: %s", c.base, path, resp.StatusCode, said.Error)
	}
	return read(resp.Body)
}

// into decodes an answer.
func into(v any) func(io.Reader) error {
	return func(r io.Reader) error { return json.NewDecoder(r).Decode(v) }
}
