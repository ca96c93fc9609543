package configs

import (
	"fmt"
	"net"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Bounds that are not those of one number. docs/configuration.md repeats them.
const (
	maxText      = 4096 // bytes of any one value; PATH_MAX of Linux
	maxEntries   = 100  // of every list but upstreams; each entry costs a socket or a match per name
	maxUpstreams = 16   // each has an outbox and a sender of its own
	maxTags      = 100  // tags of a series at intake (docs/protocols.md)
	maxTagKey    = 64   // bytes (docs/protocols.md)
	maxTagValue  = 200  // bytes (docs/protocols.md; Datadog cuts there as well)
	maxGlob      = 255  // bytes, the longest name (docs/protocols.md)
)

// Validate checks a configuration that was put together or changed in memory.
// The error is an Errors, without positions. It opens no file.
func Validate(c *Config) error {
	k := checker{faults: &faults{}}
	k.config(c)
	return k.err()
}

// checker holds every rule beyond the type of a single value.
type checker struct {
	*faults
	sockets map[string]string // Unix socket path → key that has it already
}

func (k *checker) config(c *Config) {
	k.leaves(reflect.ValueOf(c).Elem(), "", "")
	k.listen(&c.Listen)
	k.aggregate(&c.Aggregate)
	k.rules(c.Aggregate.Rules)
	k.origin(&c.Origin)
	k.buckets(c.Expose.Buckets)
	k.upstreams(c.Upstreams)
	if c.Spool.Dir != "" {
		k.absolute("spool.dir", c.Spool.Dir)
	}
}

// leaves checks what the tags of the schema say, and every text.
func (k *checker) leaves(v reflect.Value, path string, tag reflect.StructTag) {
	switch x := v.Interface().(type) {
	case Secret:
		// never shown, and checked with its upstream
	case string:
		k.text(path, x, tag.Get("oneof"))
	case time.Duration:
		k.bounds(path, int64(x), tag, func(n int64) string { return formatDuration(time.Duration(n)) })
	case Size:
		k.bounds(path, int64(x), tag, func(n int64) string { return Size(n).String() })
	case int:
		k.bounds(path, int64(x), tag, func(n int64) string { return fmt.Sprint(n) })
	case []Upstream:
		k.entries(v, path, tag, maxUpstreams)
	default:
		switch v.Kind() {
		case reflect.Struct:
			for f, fv := range v.Fields() {
				if key := f.Tag.Get("yaml"); key != "-" {
					k.leaves(fv, join(path, key), f.Tag)
				}
			}
		case reflect.Slice:
			k.entries(v, path, tag, maxEntries)
		}
	}
}

func (k *checker) entries(v reflect.Value, path string, tag reflect.StructTag, most int) {
	if v.Len() > most {
		k.add(path, "has %d entries, over the limit of %d; take some out", v.Len(), most)
		return
	}
	seen := map[string]bool{}
	for i := range v.Len() {
		at := fmt.Sprintf("%s[%d]", path, i)
		k.leaves(v.Index(i), at, tag)
		if s, ok := v.Index(i).Interface().(string); ok && s != "" && !strings.HasSuffix(s, ":0") {
			if seen[s] {
				k.add(at, "%s is in the list twice; keep one", k.show(at, s))
			}
			seen[s] = true
		}
	}
}

func (k *checker) text(path, s, oneof string) {
	if oneof != "" {
		if words := strings.Split(oneof, "|"); !slices.Contains(words, s) {
			near := ""
			if w := nearest(s, words); w != "" {
				near = fmt.Sprintf("; did you mean %q?", w)
			}
			k.add(path, "%s is not one of %s%s", k.show(path, s), strings.Join(words, ", "), near)
		}
		return
	}
	switch i := strings.IndexFunc(s, unicode.IsControl); {
	case len(s) > maxText:
		k.add(path, "%s has %d bytes, over the limit of %d; shorten it", k.show(path, s), len(s), maxText)
	case !utf8.ValidString(s):
		k.add(path, "%s is not valid UTF-8; save the file, or set the variable, as UTF-8", k.show(path, s))
	case i >= 0:
		k.add(path, "%s has a control character at byte %d; take it out", k.show(path, s), i+1)
	default:
		return
	}
	k.settle(path)
}

func (k *checker) bounds(path string, n int64, tag reflect.StructTag, format func(int64) string) {
	if text, ok := tag.Lookup("min"); ok && n < bound(text) {
		k.add(path, "%s is under the least of %s; raise it", format(n), text)
	}
	if text, ok := tag.Lookup("max"); ok && n > bound(text) {
		k.add(path, "%s is over the limit of %s; lower it", format(n), text)
	}
}

// bound reads the number in a tag of the schema: 64, 64KiB or 10s.
func bound(text string) int64 {
	if n, err := parseInt(text); err == nil {
		return int64(n)
	}
	if n, err := parseSize(text); err == nil {
		return int64(n)
	}
	d, err := parseDuration(text)
	if err != nil {
		panic("configs: the schema has the bound " + text)
	}
	return int64(d)
}

func (k *checker) listen(l *Listen) {
	k.sockets = map[string]string{}
	for i, addr := range l.UDP {
		k.address(fmt.Sprintf("listen.udp[%d]", i), addr, l.AllowRemote)
	}
	for i, s := range l.Unixgram {
		k.socket(fmt.Sprintf("listen.unixgram[%d]", i), s)
	}
	for i, s := range l.Unix {
		k.socket(fmt.Sprintf("listen.unix[%d]", i), s)
	}
	if path, ok := strings.CutPrefix(l.HTTP, "unix:"); ok {
		k.socketPath("listen.http", path)
	} else if l.HTTP != "" {
		k.address("listen.http", l.HTTP, l.AllowRemote)
	}
	if l.HTTPTokenFile != "" {
		k.absolute("listen.http_token_file", l.HTTPTokenFile)
	}
	for i, h := range l.AllowedHosts {
		if at := fmt.Sprintf("listen.allowed_hosts[%d]", i); !validHost(h) {
			k.add(at, "%s is not a host name; write it without scheme, port and path, like metrics.example.com", k.show(at, h))
		}
	}
}

// address checks host:port of a listener.
func (k *checker) address(path, addr string, remote bool) {
	host, port, err := net.SplitHostPort(addr)
	n, bad := parseInt(port)
	switch {
	case err != nil || bad != nil || n < 0 || n > 65535:
		k.add(path, "%s is not host:port; write it like 127.0.0.1:8125 or \"[::1]:8125\", with a port from 0 to 65535", k.show(path, addr))
	case host != "" && !validHost(host):
		k.add(path, "%s does not start with a host name or an address; write it like 127.0.0.1:%d", k.show(path, addr), n)
	case !remote && !loopback(host):
		k.add(path, "%s is not a loopback address; write 127.0.0.1:%d, or set listen.allow_remote: true to take samples from other machines", k.show(path, addr), n)
	}
}

func (k *checker) socket(path string, s Socket) {
	k.socketPath(path+".path", s.Path)
	switch {
	case s.Mode&^0o777 != 0:
		k.add(path+".mode", "%#o is over the limit of 0777; write permission bits only", uint32(s.Mode))
	case s.Mode&0o222 == 0:
		k.add(path+".mode", "%04o lets nobody send; add write permission, like \"0660\"", uint32(s.Mode))
	}
}

func (k *checker) socketPath(path, file string) {
	const most = 107 // unix(7): sun_path has 108 bytes with the final NUL
	if _, ok := k.at[path]; !ok {
		path = strings.TrimSuffix(path, ".path") // the entry is just a path
	}
	switch other, taken := k.sockets[file]; {
	case file == "":
		k.add(path, "has no path; write one like /run/sluice/statsd.sock")
	case len(file) > most:
		k.add(path, "%s has %d bytes, over the limit of %d for a socket; use a shorter path", k.show(path, file), len(file), most)
	case taken:
		k.add(path, "%s is the socket of %s already; give each its own", k.show(path, file), other)
	default:
		k.absolute(path, file)
		k.sockets[file] = path
	}
}

func (k *checker) absolute(path, file string) {
	// A Unix path is absolute on every system, so that a file can be checked
	// on another machine than the one it is for.
	if !filepath.IsAbs(file) && !strings.HasPrefix(file, "/") {
		k.add(path, "%s is not an absolute path; start it with /", k.show(path, file))
	}
}

func (k *checker) aggregate(a *Aggregate) {
	if a.Interval >= 100*time.Millisecond && a.Interval <= time.Minute && time.Minute%a.Interval != 0 {
		k.add("aggregate.interval", "%s does not divide a minute; use 1s, 2s, 5s, 10s, 15s, 20s, 30s or 1m", formatDuration(a.Interval))
	}
	if len(a.Tags) > maxTags {
		k.add("aggregate.tags", "has %d tags, over the limit of %d; take some out", len(a.Tags), maxTags)
		return
	}
	for key, value := range a.Tags {
		at := joinKey("aggregate.tags", key)
		k.text(at, value, "")
		k.tagKey(at, key)
		k.tagValue(at, value)
	}
	if len(a.Hostname) > maxTagValue {
		k.add("aggregate.hostname", "%s has %d bytes, over the limit of %d for a tag's value; shorten it", k.show("aggregate.hostname", a.Hostname), len(a.Hostname), maxTagValue)
	}
	if _, ok := a.Tags["host"]; ok && a.Hostname != "" {
		k.add("aggregate.tags.host", "the tag host is also set by aggregate.hostname; keep one of the two")
	}
}

func (k *checker) tagKey(at, key string) {
	switch {
	case key == "":
		k.add(at, "a tag needs a key; write key: value")
	case len(key) > maxTagKey:
		k.add(at, "the key has %d bytes, over the limit of %d; shorten it", len(key), maxTagKey)
	case !utf8.ValidString(key) || strings.ContainsFunc(key, unicode.IsControl) || strings.TrimSpace(key) != key:
		k.add(at, "the key has control characters or spaces around it; take them out")
	}
}

func (k *checker) tagValue(at, value string) {
	if len(value) > maxTagValue {
		k.add(at, "%s has %d bytes, over the limit of %d for a tag's value; shorten it", k.show(at, value), len(value), maxTagValue)
	}
}

func (k *checker) upstreams(list []Upstream) {
	names := map[string]int{}
	for i := range list[:min(len(list), maxUpstreams)] {
		u, path := &list[i], fmt.Sprintf("upstreams[%d]", i)
		switch first, taken := names[u.Name]; {
		case !wordForm.MatchString(u.Name) || len(u.Name) > maxWord:
			k.add(path+".name", "%s is not a name; write 1 to 64 letters, digits, _ or -", k.show(path+".name", u.Name))
		case taken:
			k.add(path+".name", "%s is the name of upstreams[%d] already; give each its own", k.show(path+".name", u.Name), first)
		default:
			names[u.Name] = i
		}
		k.upstream(path, u)
	}
}

func (k *checker) upstream(path string, u *Upstream) {
	k.url(path+".url", u)
	k.key(path, u)
	if most := maxItems(u.Type); u.ItemsPerRequest > most {
		k.add(path+".items_per_request", "%d is over the upstream's limit of %d; lower it", u.ItemsPerRequest, most)
	}
	if least := minItems(u.Type); u.ItemsPerRequest >= 1 && u.ItemsPerRequest < least {
		k.add(path+".items_per_request", "%d leaves no room beside the agent's own items; raise it to %d or more", u.ItemsPerRequest, least)
	}
	for _, g := range []struct {
		key   string
		globs []string
	}{{".only", u.Only}, {".except", u.Except}} {
		for j, glob := range g.globs {
			at := fmt.Sprintf("%s%s[%d]", path, g.key, j)
			if glob == "" || len(glob) > maxGlob {
				k.add(at, "%s has %d bytes, not 1 to %d; write a name in which * and ? stand for any text and any character", k.show(at, glob), len(glob), maxGlob)
			}
		}
	}
}

// key never puts the key itself into a message.
func (k *checker) key(path string, u *Upstream) {
	switch {
	case u.APIKey != "" && u.APIKeyFile != "":
		k.add(path+".api_key_file", "the key is given twice; keep one of api_key and api_key_file")
	case u.APIKeyFile != "":
		k.absolute(path+".api_key_file", u.APIKeyFile)
	case u.APIKey == "" && u.Type == DataCat: // its server may ask for none
	case u.APIKey == "":
		k.add(path+".api_key", "has no key; set api_key: ${FLUX_API_KEY}, or api_key_file to a file that holds the key")
	default:
		if why := badSecret(u.APIKey); why != "" {
			k.add(path+".api_key", "the key %s", why)
		}
	}
}

// badSecret says why a trimmed secret cannot stand in an HTTP header, or "".
func badSecret(s Secret) string {
	if len(s) > maxText {
		return fmt.Sprintf("has %d bytes, over the limit of %d; is it the right value?", len(s), maxText)
	}
	i := strings.IndexFunc(string(s), func(r rune) bool { return r <= ' ' || r > '~' })
	if i >= 0 {
		return fmt.Sprintf("has a space, a control character or a character outside ASCII at byte %d of %d; copy it again", i+1, len(s))
	}
	return ""
}
