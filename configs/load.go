package configs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// Load reads the file, completes it from the environment, reads the key files
// it names and checks everything. With the path "" it reads DefaultPath if
// that exists, else it starts from the defaults. The lookup is os.LookupEnv
// outside of tests. What works but looks like a mistake is in Config.Warnings.
//
// The error is an Errors when the content is at fault, else it wraps the error
// of the file (fs.ErrNotExist, fs.ErrPermission and so on).
func Load(path string, lookup Lookup) (Config, error) {
	return load(path, DefaultPath, lookup)
}

func load(path, fallback string, lookup Lookup) (Config, error) {
	name := path
	if name == "" {
		name = fallback
	}
	data, err := readAtMost(name, maxFile+1) // one more, so that Parse sees that it is over
	if path == "" && errors.Is(err, fs.ErrNotExist) {
		name, err = "", nil
	}
	if err != nil {
		return Config{}, fmt.Errorf("read configuration %s: %w; %s", name, err,
			hint(err, "name an existing file with --config, or leave --config out"))
	}
	p := newParser(name, lookup)
	c := p.parse(data)
	p.environment(&c)
	p.files(&c)
	if err := p.finish(&c); err != nil {
		return Config{}, err
	}
	return c, nil
}

// environment makes one Flux upstream of FLUX_API_KEY and FLUX_URL where none
// is configured. A variable that is set to nothing counts as not set.
func (p *parser) environment(c *Config) {
	key, _ := p.lookup("FLUX_API_KEY")
	if key = strings.TrimSpace(key); len(c.Upstreams) > 0 || key == "" {
		return
	}
	p.fluxFromEnvironment(c)
	c.Upstreams[0].APIKey = Secret(key)
	p.at["upstreams[0].api_key"] = place{variable: "FLUX_API_KEY"}
}

func (p *parser) fluxFromEnvironment(c *Config) {
	u := DefaultUpstream(Flux)
	if url, _ := p.lookup("FLUX_URL"); url != "" {
		u.URL = url
		p.at["upstreams[0].url"] = place{variable: "FLUX_URL"}
	}
	c.Upstreams = []Upstream{u}
}

// files fills in what only the file system knows.
func (p *parser) files(c *Config) {
	p.credential(c)
	if c.Spool.Dir == "" {
		dir, err := DefaultSpoolDir(p.lookup)
		if err != nil {
			p.add("spool.dir", "%v", err)
		}
		c.Spool.Dir = dir
	}
	if file := c.Listen.HTTPTokenFile; file != "" {
		c.Listen.HTTPToken = p.secret(c, "listen.http_token_file", file)
	}
	for i := range c.Upstreams {
		if u := &c.Upstreams[i]; u.APIKeyFile != "" && u.APIKey == "" {
			u.Key = p.secret(c, fmt.Sprintf("upstreams[%d].api_key_file", i), u.APIKeyFile)
		}
	}
}

// credential lets a key that systemd hands over work without a line in the
// file: Flux upstreams without a key take it, and where no upstream is
// configured it makes one.
func (p *parser) credential(c *Config) {
	dir, _ := p.lookup("CREDENTIALS_DIRECTORY") // systemd.exec(5)
	if dir == "" {
		return
	}
	file := filepath.Join(dir, "keys_flux_api_key") // file flux_api_key of LoadCredential=keys:FOLDER
	if _, err := os.Stat(file); err != nil {
		return
	}
	if len(c.Upstreams) == 0 {
		p.fluxFromEnvironment(c)
		p.at["upstreams[0].api_key_file"] = place{variable: "CREDENTIALS_DIRECTORY"}
	}
	for i := range c.Upstreams {
		if u := &c.Upstreams[i]; u.Type == Flux && u.APIKey == "" && u.APIKeyFile == "" {
			u.APIKeyFile = file
		}
	}
}

// secret reads a file that holds a key or token, and trims it.
func (p *parser) secret(c *Config, path, file string) Secret {
	info, err := os.Stat(file)
	if err == nil && info.IsDir() {
		p.add(path, "%s is a folder; name the file in it", p.show(path, file))
		return ""
	}
	if err == nil && !info.Mode().IsRegular() {
		p.add(path, "%s is not an ordinary file; a pipe or device could block the start", p.show(path, file))
		return ""
	}
	var data []byte
	if err == nil {
		data, err = readAtMost(file, maxText+1)
	}
	if err != nil {
		p.add(path, "%s cannot be read: %v; %s", p.show(path, file), cause(err), hint(err, "create it, or correct the path"))
		return ""
	}
	s := Secret(strings.TrimSpace(string(data)))
	if why := badSecret(s); why != "" {
		p.add(path, "the content of %s %s", p.show(path, file), why)
	} else if s == "" {
		p.add(path, "%s is empty; put the key into it", p.show(path, file))
	}
	// Windows has no such bits: Go reports all of them set.
	if info.Mode()&0o004 != 0 && runtime.GOOS != "windows" {
		c.Warnings = append(c.Warnings, fmt.Sprintf("%s: every user of this machine can read %s; chmod o-r it", path, file))
	}
	return s
}

// finish brings values into their normal form, runs all checks and adds the
// warnings.
func (p *parser) finish(c *Config) error {
	for i, h := range c.Listen.AllowedHosts {
		c.Listen.AllowedHosts[i] = strings.ToLower(h)
	}
	for i := range c.Upstreams {
		u := &c.Upstreams[i]
		if url := strings.TrimRight(u.URL, "/"); !strings.HasSuffix(url, ":") { // https:// is left for the message
			u.URL = url
		}
		if u.APIKeyFile == "" {
			u.Key = u.APIKey
		}
	}
	k := checker{faults: &p.faults}
	k.config(c)
	host, _, err := net.SplitHostPort(c.Listen.HTTP)
	if err == nil && host != "unix" && !loopback(host) && c.Listen.HTTPTokenFile == "" {
		c.Warnings = append(c.Warnings, fmt.Sprintf("listen.http: other machines can reach %s without a token; set listen.http_token_file", c.Listen.HTTP))
	}
	return p.err()
}

// readAtMost reads the first n bytes of a file.
func readAtMost(name string, n int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, cause(err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, n))
	return data, cause(err)
}

// cause takes the operation and the path off an error: the message around it
// has them already.
func cause(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}

// hint says what to do about a file that cannot be read.
func hint(err error, missing string) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return missing
	case errors.Is(err, fs.ErrPermission):
		return "make it readable for the user that sluice runs as"
	}
	return "name an ordinary file"
}
