// Package configs reads the configuration file of sluice.
//
// The schema is the struct tree below: the tag `yaml` names a key, `min` and
// `max` bound a number, `oneof` lists the words that a text may be. The walk
// over the file (parse.go), the checks (validate.go), the printer (redact.go),
// sluice.yaml and docs/configuration.md all follow it, and tests keep them
// equal.
//
// A Config is plain values without pointers: the caller owns it, two of them
// compare with reflect.DeepEqual, and an empty list or map is always nil.
// Nothing here starts a goroutine or keeps a file open.
package configs

import (
	_ "embed" // for Template
	"io/fs"
	"time"
)

// Config is the whole configuration. The zero value is not usable; start from
// Default or Load.
type Config struct {
	Listen          Listen        `yaml:"listen"`
	Aggregate       Aggregate     `yaml:"aggregate"`
	Origin          Origin        `yaml:"origin"`
	Expose          Expose        `yaml:"expose"`
	Upstreams       []Upstream    `yaml:"upstreams"`
	Spool           Spool         `yaml:"spool"`
	Log             Log           `yaml:"log"`
	ShutdownTimeout time.Duration `yaml:"shutdown_timeout" min:"0s" max:"5m"` // how long the last drain may take; 0s: none

	// File is the file that was read, as it was named; "" when there was none.
	File string `yaml:"-"`
	// Warnings are one line each, for the log: what works, but not as meant.
	Warnings []string `yaml:"-"`
}

// Listen says where samples are taken.
type Listen struct {
	UDP           []string `yaml:"udp"`                                     // host:port; port 0 lets the kernel choose; none: off
	Unixgram      []Socket `yaml:"unixgram"`                                // datagram sockets
	Unix          []Socket `yaml:"unix"`                                    // stream sockets
	HTTP          string   `yaml:"http"`                                    // host:port or unix:/path; "" is off
	HTTPTokenFile string   `yaml:"http_token_file"`                         // "": no token asked for
	AllowRemote   bool     `yaml:"allow_remote"`                            // take addresses that are not loopback
	AllowedHosts  []string `yaml:"allowed_hosts"`                           // Host names without port, lower case
	ReceiveBuffer Size     `yaml:"receive_buffer" min:"64KiB" max:"256MiB"` // bytes asked of the kernel, per socket
	Readers       int      `yaml:"readers" min:"0" max:"64"`                // per datagram socket; 0: chosen by the agent

	// HTTPToken is the content of HTTPTokenFile, trimmed. Only Load sets it.
	HTTPToken Secret `yaml:"-"`
}

// Socket is a Unix socket. In the file it is a mapping or just its path.
type Socket struct {
	Path  string      `yaml:"path"`  // absolute, at most 107 bytes
	Mode  fs.FileMode `yaml:"mode"`  // permission bits; 0660 when not given
	Group string      `yaml:"group"` // name or number; "": the group of the process
}

// Aggregate says how samples become windows.
type Aggregate struct {
	Interval           time.Duration     `yaml:"interval" min:"100ms" max:"1m"`    // divides a minute
	MaxLateness        time.Duration     `yaml:"max_lateness" min:"0s" max:"24h"`  // older values are refused as late
	MaxSeries          int               `yaml:"max_series" min:"1" max:"1000000"` // over all open windows
	MaxSeriesPerMetric int               `yaml:"max_series_per_metric" min:"1" max:"1000000"`
	MaxSetMembers      int               `yaml:"max_set_members" min:"1" max:"1000000"` // beyond it a set is estimated
	Tags               map[string]string `yaml:"tags"`                                  // added to every series
	Hostname           string            `yaml:"hostname"`                              // tag host; "": none, HostnameAuto: os.Hostname
	NegativeGauges     string            `yaml:"negative_gauges" oneof:"absolute|delta"`
	OwnMetrics         bool              `yaml:"own_metrics"` // what the agent says about itself goes upstream, too
	Rules              []Rule            `yaml:"rules"`
}

// Rule says what is done with metrics of some names when they come in. All rules
// that match are applied, in order, each to what those before it made.
type Rule struct {
	Match      string            `yaml:"match"`                                        // name glob, * and ?
	Kinds      []string          `yaml:"kinds" oneof:"counter|gauge|distribution|set"` // none: all
	Drop       bool              `yaml:"drop"`
	Classes    []Class           `yaml:"classes"`
	RenameTags map[string]string `yaml:"rename_tags"` // old key: new key
	DropTags   []string          `yaml:"drop_tags"`   // globs of keys
	AddTags    map[string]string `yaml:"add_tags"`    // where there is no such tag; $1 is what the first * stood for
	Name       string            `yaml:"name"`        // "": the name stays; $1 as above
}

// Class replaces values of a tag by one that stands for all of them. Of the
// classes of one tag the first that has the value counts.
type Class struct {
	Tag    string   `yaml:"tag"`
	As     string   `yaml:"as"`
	Values []string `yaml:"values"` // globs
}

// Origin says what is looked up about the containers that samples come from.
type Origin struct {
	Detect           bool              `yaml:"detect"`
	Tags             []string          `yaml:"tags" oneof:"namespace|pod|container|container_id|image|workload"`
	Labels           map[string]string `yaml:"labels"` // label of a pod: key of the tag
	MapFile          string            `yaml:"map_file"`
	Kubelet          string            `yaml:"kubelet"` // base URL; "": it is not asked
	KubeletTokenFile string            `yaml:"kubelet_token_file"`
	KubeletCAFile    string            `yaml:"kubelet_ca_file"`
	KubeletInsecure  bool              `yaml:"kubelet_insecure"` // take any certificate
	Proc             string            `yaml:"proc"`             // where the processes are
	Cgroups          string            `yaml:"cgroups"`          // where the control groups are
}

// Expose says what Prometheus may read of what programs sent.
type Expose struct {
	MaxSeries int       `yaml:"max_series" min:"0" max:"100000"` // 0: nothing
	Buckets   []float64 `yaml:"buckets"`                         // upper bounds, ascending
}

// Upstream is one service that windows are delivered to.
type Upstream struct {
	Name                    string        `yaml:"name"` // [A-Za-z0-9_-]{1,64}, unique; the type when not given
	Type                    string        `yaml:"type" oneof:"flux|pulse|datacat"`
	URL                     string        `yaml:"url"`      // base, without the API's path and without a final slash
	Insecure                bool          `yaml:"insecure"` // take http beyond loopback
	APIKey                  Secret        `yaml:"api_key"`
	APIKeyFile              string        `yaml:"api_key_file"`
	RequestsPerMinute       int           `yaml:"requests_per_minute" min:"1" max:"100000"`
	ItemsPerRequest         int           `yaml:"items_per_request" min:"1"`                       // the upper bound is the type's, see maxItems
	SingleRequestsPerMinute int           `yaml:"single_requests_per_minute" min:"0" max:"100000"` // 0: the single-item endpoint is not used
	Timeout                 time.Duration `yaml:"timeout" min:"1s" max:"10m"`
	Dialect                 string        `yaml:"dialect" oneof:"auto|hosted|self_hosted"`
	Verify                  string        `yaml:"verify" oneof:"auto|off"`
	Unverified              string        `yaml:"unverified" oneof:"drop|resend"`
	Settle                  time.Duration `yaml:"settle" min:"0s" max:"1h"`
	CatchUp                 time.Duration `yaml:"catch_up" min:"1m" max:"24h"`
	Points                  int           `yaml:"points" min:"0" max:"1000"` // most values per distribution and window
	Scalars                 []string      `yaml:"scalars" oneof:"count|sum|min|max|p50|p95|p99"`
	Only                    []string      `yaml:"only"`   // name globs, * and ?; none: all names
	Except                  []string      `yaml:"except"` // name globs; win over Only

	// Key is the key to send: APIKey, or the content of APIKeyFile, trimmed.
	// Parse knows only the first, Load both.
	Key Secret `yaml:"-"`
}

// Spool says where windows are kept and how many.
type Spool struct {
	Dir       string        `yaml:"dir"`                              // absolute; Load replaces "" by DefaultSpoolDir
	MaxBytes  Size          `yaml:"max_bytes" min:"64MiB" max:"1TiB"` // what goes beyond it: docs/spool.md
	Retention time.Duration `yaml:"retention" min:"0s" max:"744h"`    // a wish; MaxBytes is the bound
}

// Log says what is logged, and how.
type Log struct {
	Level  string `yaml:"level" oneof:"debug|info|warn|error"`
	Format string `yaml:"format" oneof:"text|json"`
}

// Types of upstream.
const (
	Flux    = "flux"
	Pulse   = "pulse"
	DataCat = "datacat"
)

// HostnameAuto as Aggregate.Hostname stands for the name that the machine
// gives itself.
const HostnameAuto = "auto"

// DefaultFluxURL is the hosted Flux service.
const DefaultFluxURL = "https://flux.brainzlab.ai"

// serviceAccount is where Kubernetes puts what a pod may show of itself.
const serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount/"

// DefaultPath is read when no file is named and it exists.
const DefaultPath = "/etc/sluice/sluice.yaml"

// Template is the file that the packages install: every key with its default
// and a comment, upstreams and sockets as comments.
//
//go:embed sluice.yaml
var Template string

// Default is the configuration of an empty file in an empty environment.
func Default() Config {
	return Config{
		Listen: Listen{
			UDP:           []string{"127.0.0.1:8125"},
			HTTP:          "127.0.0.1:8127",
			ReceiveBuffer: 4 << 20,
		},
		Aggregate: Aggregate{
			Interval:           10 * time.Second,
			MaxLateness:        time.Hour,
			MaxSeries:          100_000,
			MaxSeriesPerMetric: 10_000,
			MaxSetMembers:      10_000,
			NegativeGauges:     "absolute",
		},
		Origin: Origin{
			Tags:             []string{"namespace", "pod", "container"},
			KubeletTokenFile: serviceAccount + "token",
			KubeletCAFile:    serviceAccount + "ca.crt",
			Proc:             "/proc",
			Cgroups:          "/sys/fs/cgroup",
		},
		Expose: Expose{
			MaxSeries: 10_000,
			// Those of Prometheus' clients, for seconds, and on to those for milliseconds.
			Buckets: []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000},
		},
		Spool: Spool{
			MaxBytes:  256 << 20,
			Retention: 6 * time.Hour,
		},
		Log:             Log{Level: "info", Format: "text"},
		ShutdownTimeout: 10 * time.Second,
	}
}

// DefaultUpstream is an upstream of one type with everything but its key; for
// an unknown type it is that of Flux.
func DefaultUpstream(typ string) Upstream {
	u := Upstream{
		Name:                    typ,
		Type:                    typ,
		URL:                     DefaultFluxURL,
		RequestsPerMinute:       10, // Flux and Pulse API: 10 batch requests a minute
		ItemsPerRequest:         maxItems(typ),
		SingleRequestsPerMinute: 60,
		Timeout:                 120 * time.Second,
		Dialect:                 "auto",
		Verify:                  "auto",
		Unverified:              "drop",
		Settle:                  time.Minute,
		CatchUp:                 15 * time.Minute,
		Points:                  100,
		Scalars:                 []string{"count", "sum", "min", "max", "p50", "p95", "p99"},
	}
	switch typ {
	case Pulse:
		u.URL = "https://pulse.brainzlab.ai"
	case DataCat:
		u.URL = ""
		u.RequestsPerMinute = 600 // it takes single items only
	}
	return u
}

// minItems is the least: one beside the agent's own items, which are one for Flux
// and two for Pulse.
func minItems(typ string) int {
	switch typ {
	case Pulse:
		return 3
	case DataCat:
		return 1
	}
	return 2
}

// maxItems is the most items of one batch request: one below what the
// published APIs of Flux (500) and Pulse (1,000) take, and single items for
// DataCat.
func maxItems(typ string) int {
	switch typ {
	case Pulse:
		return 999
	case DataCat:
		return 1
	}
	return 499
}
