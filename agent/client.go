package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"sluice/configs"
)

// A client asks a running agent over its HTTP listener.
type client struct {
	addr  string // as people know it
	base  string // without a final slash
	token string
	http  *http.Client
}

// clientTimeout is for answers that are a page; those that go on have none.
const clientTimeout = 10 * time.Second

// apiFlags are the flags of commands that ask a running agent.
type apiFlags struct{ file, addr string }

func addAPIFlags(c *cobra.Command, f *apiFlags) {
	configFlag(c, &f.file)
	c.Flags().StringVar(&f.addr, "addr", "", "ask the agent at `ADDR`: host:port or unix:/path (default: listen.http)")
}

// client finds the agent.
func (f *apiFlags) client() (*client, error) {
	cfg, err := clientConfig(f.file)
	if err != nil && f.addr == "" {
		return nil, fmt.Errorf("%w (use --addr to do without)", err)
	}
	if f.addr != "" && !strings.HasPrefix(f.addr, "unix:") {
		if _, _, err := net.SplitHostPort(strings.TrimPrefix(f.addr, "http://")); err != nil {
			return nil, usagef("--addr %q: write host:port, or unix:/path", f.addr)
		}
	}
	return newClient(cfg, f.addr)
}

// clientConfig reads the configuration for a command that talks to the agent.
// Whoever does need not be able to read the agent's keys, so no file is opened but
// the configuration, and variables that only the agent has may be missing.
func clientConfig(file string) (configs.Config, error) {
	name := cmp.Or(file, configs.DefaultPath)
	data, err := os.ReadFile(name)
	if err != nil && (file != "" || !errors.Is(err, fs.ErrNotExist)) {
		return configs.Config{}, fmt.Errorf("read configuration: %w", err)
	}
	return configs.Parse(name, data, func(name string) (string, bool) {
		if value, ok := os.LookupEnv(name); ok {
			return value, true
		}
		if name == "FLUX_URL" {
			return configs.DefaultFluxURL, true
		}
		return "unset", true
	})
}

// newClient finds the agent at addr, HOST:PORT or unix:PATH, or where the
// configuration says that it listens.
func newClient(cfg configs.Config, addr string) (*client, error) {
	addr = cmp.Or(addr, cfg.Listen.HTTP)
	if addr == "" {
		return nil, errors.New("listen.http is \"\": the agent answers nothing")
	}
	dial := &net.Dialer{Timeout: 5 * time.Second}
	transport := &http.Transport{DialContext: dial.DialContext, DisableCompression: true}
	c := &client{addr: addr, http: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		c.base = "http://localhost"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return dial.DialContext(ctx, "unix", path) }
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

// open makes a request and gives the body of a good answer.
func (c *client) open(ctx context.Context, method, path string, body any) (io.ReadCloser, error) {
	var content io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, content)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) { // has method and address, too
			err = u.Err
		}
		hint := ""
		if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT) {
			hint = " (is sluice running? start it with: sluice run)"
		}
		return nil, fmt.Errorf("ask %s: %w%s", c.base, cause(err), hint)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	var said struct{ Error string }
	if json.Unmarshal(b, &said) != nil || said.Error == "" {
		said.Error = strings.TrimSpace(string(b[:min(len(b), 200)]))
	}
	return nil, fmt.Errorf("ask %s%s: status %d: %s", c.base, path, resp.StatusCode, printable(said.Error))
}

// ask makes a request and hands the body of a good answer to read.
func (c *client) ask(ctx context.Context, method, path string, body any, read func(io.Reader) error) error {
	answer, err := c.open(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer answer.Close()
	return read(answer)
}

// into decodes an answer.
func into(v any) func(io.Reader) error {
	return func(r io.Reader) error { return json.NewDecoder(r).Decode(v) }
}

// page reads a whole answer.
func (c *client) page(ctx context.Context, path string) (data []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, clientTimeout)
	defer cancel()
	err = c.ask(ctx, http.MethodGet, path, nil, func(r io.Reader) (err error) {
		data, err = io.ReadAll(io.LimitReader(r, 64<<20))
		return err
	})
	return data, err
}
