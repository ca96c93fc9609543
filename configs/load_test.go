package configs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
)

// write puts a file into a folder of the test and returns its path.
func write(t *testing.T, dir, name, content string, mode fs.FileMode) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask
		t.Fatal(err)
	}
	return path
}

func TestLoadNoFile(t *testing.T) {
	dir := t.TempDir()
	missing := filepath.Join(dir, "none.yaml")

	_, err := Load(missing, env())
	want := "read configuration " + missing + ": no such file or directory; name an existing file with --config, or leave --config out"
	if runtime.GOOS == "windows" {
		want = err.Error()
	}
	if err == nil || err.Error() != want || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Load(missing) = %v, want %s", err, want)
	}
	if _, err := Load(dir, env()); err == nil || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), dir) {
		t.Errorf("Load(folder) = %v, want one line that names it", err)
	}

	c, err := load("", missing, env("STATE_DIRECTORY", "/state:/more"))
	if err != nil || c.File != "" || len(c.Upstreams) != 0 {
		t.Errorf("Load(no file) = %+v, %v, want the defaults", c, err)
	}
	if want := "/state"; c.Spool.Dir != want && runtime.GOOS != "windows" {
		t.Errorf("Load(no file) has the spool in %s, want %s", c.Spool.Dir, want)
	}
	found := write(t, dir, "found.yaml", "spool: {dir: /s}\n", 0o644)
	if c, err := load("", found, env()); err != nil || c.File != found || c.Spool.Dir != "/s" {
		t.Errorf("Load(default file) = %+v, %v, want what %s says", c, err, found)
	}
}

func TestLoadUnreadable(t *testing.T) {
	path := write(t, t.TempDir(), "a.yaml", "", 0)
	if f, err := os.Open(path); err == nil {
		f.Close()
		t.Skip("this user can read every file")
	}
	// Also as the default file: a file that is there and means nothing would surprise.
	for _, load := range []func() (Config, error){
		func() (Config, error) { return load(path, "", env()) },
		func() (Config, error) { return load("", path, env()) },
	} {
		if _, err := load(); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "make it readable") {
			t.Errorf("Load(unreadable) = %v, want a refusal with a hint", err)
		}
	}
}

func TestEnvironmentUpstream(t *testing.T) {
	for _, file := range []string{"", "upstreams: []", "upstreams:\n"} {
		c, err := Parse("f", []byte(file), env("FLUX_API_KEY", "sk_1\n", "FLUX_URL", "http://127.0.0.1:3000/"))
		if err != nil {
			t.Fatal(err)
		}
		want := DefaultUpstream(Flux)
		want.URL, want.APIKey, want.Key = "http://127.0.0.1:3000", "sk_1", "sk_1"
		if got := c.Upstreams; !reflect.DeepEqual(got, []Upstream{want}) {
			t.Errorf("Parse(%q) has the upstreams %+v, want %+v", file, got, want)
		}
	}
	for _, lookup := range []Lookup{env(), env("FLUX_API_KEY", ""), env("FLUX_URL", "https://x")} {
		if c, err := Parse("f", nil, lookup); err != nil || len(c.Upstreams) != 0 {
			t.Errorf("Parse() without a key has the upstreams %+v, %v, want none", c.Upstreams, err)
		}
	}
	c, err := Parse("f", []byte("upstreams: [{name: a, api_key: k}]"), env("FLUX_API_KEY", "sk_1"))
	if err != nil || len(c.Upstreams) != 1 || c.Upstreams[0].Key != "k" || c.Upstreams[0].Name != "a" {
		t.Errorf("Parse() beside FLUX_API_KEY has the upstreams %+v, %v, want the file's", c.Upstreams, err)
	}

	_, err = Parse("f", nil, env("FLUX_API_KEY", "sk 1", "FLUX_URL", "http://u:pw@flux.example.com"))
	want := `environment: FLUX_URL: "http://***@flux.example.com" would send the key unencrypted; use https, or set insecure: true
environment: FLUX_URL: "http://***@flux.example.com" has a user or password in it; take it out and use api_key
environment: FLUX_API_KEY: the key has a space, a control character or a character outside ASCII at byte 3 of 4; copy it again`
	if err == nil || err.Error() != want {
		t.Errorf("Parse() with bad variables =\n%v\nwant\n%s", err, want)
	}
}

func TestKeyFiles(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("file modes and paths of Unix")
	}
	dir := t.TempDir()
	write(t, dir, "key", "\n sk_file \r\n", 0o600)
	write(t, dir, "open", "sk_open", 0o644)
	write(t, dir, "empty", " \n", 0o600)
	write(t, dir, "two", "sk_a\nsk_b\n", 0o600)
	write(t, dir, "big", strings.Repeat("k", maxText+1), 0o600)
	for file, want := range map[string]string{
		"key":   "sk_file",
		"open":  "sk_open",
		"empty": `upstreams[0].api_key_file: "DIR/empty" is empty; put the key into it`,
		"two":   `upstreams[0].api_key_file: the content of "DIR/two" has a space, a control character or a character outside ASCII at byte 5 of 9; copy it again`,
		"big":   `upstreams[0].api_key_file: the content of "DIR/big" has 4097 bytes, over the limit of 4096; is it the right value?`,
		"none":  `upstreams[0].api_key_file: "DIR/none" cannot be read: no such file or directory; create it, or correct the path`,
		".":     `upstreams[0].api_key_file: "DIR/." is a folder; name the file in it`,
	} {
		path := write(t, dir, "f.yaml", "upstreams:\n  - api_key_file: "+dir+"/"+file+"\nspool: {dir: /s}\n", 0o644)
		c, err := Load(path, env())
		got := ""
		if err != nil {
			got = strings.ReplaceAll(strings.TrimPrefix(err.Error(), path+":2:19: "), dir, "DIR")
		} else {
			got = c.Upstreams[0].Key.Reveal()
		}
		if quoted := `"DIR`; strings.Contains(got, "...") && strings.Contains(got, quoted) {
			t.Fatalf("the test's folder %s is too long for a message", dir)
		}
		if got != want {
			t.Errorf("Load(api_key_file: %s) = %s, want %s", file, got, want)
		}
		if warned := len(c.Warnings) == 1 && strings.Contains(c.Warnings[0], "chmod o-r"); warned != (file == "open") {
			t.Errorf("Load(api_key_file: %s) has the warnings %q", file, c.Warnings)
		}
	}
	// A device would block, or never end.
	path := write(t, dir, "f.yaml", "upstreams: [{api_key_file: /dev/zero}]\nspool: {dir: /s}\nlisten: {http_token_file: "+dir+"/none}\n", 0o644)
	if _, err := Load(path, env()); err == nil || len(err.(Errors)) != 2 {
		t.Errorf("Load(api_key_file: /dev/zero, http_token_file: missing) = %v, want both faults", err)
	}
	path = write(t, dir, "f.yaml", "listen: {http_token_file: "+dir+"/key}\nspool: {dir: /s}\n", 0o644)
	if c, err := Load(path, env()); err != nil || c.Listen.HTTPToken != "sk_file" {
		t.Errorf("Load(http_token_file) = %v, token %q, want sk_file", err, c.Listen.HTTPToken.Reveal())
	}
}

func TestCredential(t *testing.T) {
	dir := t.TempDir()
	lookup := env("CREDENTIALS_DIRECTORY", dir, "HOME", "/home/x", "LOCALAPPDATA", `C:\x`)
	missing := filepath.Join(dir, "none.yaml")
	if c, err := load("", missing, lookup); err != nil || len(c.Upstreams) != 0 {
		t.Errorf("Load() beside an empty folder of credentials = %+v, %v, want no upstream", c.Upstreams, err)
	}
	key := write(t, dir, "keys_flux_api_key", "sk_cred\n", 0o400)
	c, err := load("", missing, lookup)
	if err != nil || len(c.Upstreams) != 1 || c.Upstreams[0].Key != "sk_cred" || c.Upstreams[0].APIKeyFile != key {
		t.Errorf("Load() with a credential = %#v, %v, want one upstream with its key", c.Upstreams, err)
	}
	file := write(t, dir, "f.yaml", "upstreams: [{name: a}, {name: b, api_key: k}]", 0o600)
	c, err = Load(file, lookup)
	if err != nil || len(c.Upstreams) != 2 || c.Upstreams[0].Key != "sk_cred" || c.Upstreams[1].Key != "k" {
		t.Errorf("Load() of an upstream without key = %#v, %v, want the credential's", c.Upstreams, err)
	}
	both := func(name string) (string, bool) {
		if name == "FLUX_API_KEY" {
			return "sk_env", true
		}
		return lookup(name)
	}
	if c, err = load("", missing, both); err != nil || c.Upstreams[0].Key != "sk_env" {
		t.Errorf("Load() with both = %#v, %v, want the variable's key", c.Upstreams, err)
	}
}

func TestRemoteWarning(t *testing.T) {
	for file, want := range map[string]int{
		`listen: {http: "0.0.0.0:8127", allow_remote: true}`:                      1,
		`listen: {http: "0.0.0.0:8127", allow_remote: true, http_token_file: /t}`: 0,
		`listen: {http: "127.0.0.1:8127", allow_remote: true}`:                    0,
		`listen: {http: "unix:/run/a.sock"}`:                                      0,
		`listen: {http: ""}`:                                                      0,
	} {
		if c, err := Parse("f", []byte(file), env()); err != nil || len(c.Warnings) != want {
			t.Errorf("Parse(%s) has the warnings %q, %v, want %d", file, c.Warnings, err, want)
		}
	}
}

func TestSpoolDir(t *testing.T) {
	for _, c := range []struct {
		goos   string
		root   bool
		lookup Lookup
		want   string
	}{
		{"linux", true, env("STATE_DIRECTORY", "/a:/b", "HOME", "/root"), "/a"},
		{"linux", false, env("STATE_DIRECTORY", "/a", "XDG_STATE_HOME", "/x"), "/a"},
		{"linux", true, env("HOME", "/root", "XDG_STATE_HOME", "/x"), "/var/lib/sluice"},
		{"linux", false, env("HOME", "/home/u", "XDG_STATE_HOME", "/x"), "/x/sluice"},
		{"linux", false, env("HOME", "/home/u", "XDG_STATE_HOME", "x"), "/home/u/.local/state/sluice"},
		{"linux", false, env(), ""},
		{"darwin", false, env("HOME", "/Users/u", "XDG_STATE_HOME", "/x"), "/Users/u/Library/Application Support/sluice"},
		{"darwin", true, env("HOME", "/var/root"), "/Library/Application Support/sluice"},
		{"windows", false, env("LOCALAPPDATA", "/L"), "/L/sluice"},
		{"windows", false, env("HOME", "/h"), ""},
	} {
		got, err := spoolDir(c.goos, c.root, c.lookup)
		if filepath.ToSlash(got) != c.want || (err != nil) != (c.want == "") {
			t.Errorf("spoolDir(%s, root %t) = %q, %v, want %q", c.goos, c.root, got, err, c.want)
		}
	}
}
