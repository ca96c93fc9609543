package clients

import (
	"os"
	"testing"
)

// TestScripts runs programs in other languages, each with a client library that
// its users have. A script says on its standard output what it has measured.
func TestScripts(t *testing.T) {
	python := []string{"/usr/bin/python3", "-c"} // Debian's, which has Debian's modules
	node := []string{"node", "-e"}
	tests := []struct {
		name   string
		needs  []string // a command that tells whether the client is there
		script []string
	}{
		{"python-statsd/plain", append(python, "import statsd"), []string{"/usr/bin/python3", "scripts/python_statsd.py", "plain"}},
		{"python-statsd/pipeline", append(python, "import statsd"), []string{"/usr/bin/python3", "scripts/python_statsd.py", "pipeline"}},
		{"aiodogstatsd", append(python, "import aiodogstatsd"), []string{"/usr/bin/python3", "scripts/aiodogstatsd_udp.py"}},
		{"python-socket", append(python, "import socket"), []string{"/usr/bin/python3", "scripts/python_socket.py"}},
		{"ruby-statsd/plain", []string{"ruby", "-e", "require 'statsd'"}, []string{"ruby", "scripts/ruby_statsd.rb", "plain"}},
		{"ruby-statsd/batch", []string{"ruby", "-e", "require 'statsd'"}, []string{"ruby", "scripts/ruby_statsd.rb", "batch"}},
		{"perl-net-statsd", []string{"perl", "-MNet::Statsd", "-e", "1"}, []string{"perl", "scripts/net_statsd.pl"}},
		{"hot-shots/plain", append(node, "require('hot-shots')"), []string{"node", "scripts/hot_shots.js", "plain"}},
		{"hot-shots/datadog", append(node, "require('hot-shots')"), []string{"node", "scripts/hot_shots.js", "datadog"}},
		{"hot-shots/telegraf", append(node, "require('hot-shots')"), []string{"node", "scripts/hot_shots.js", "telegraf"}},
		{"hot-shots/buffered", append(node, "require('hot-shots')"), []string{"node", "scripts/hot_shots.js", "buffered"}},
		{"hot-shots/aggregated", append(node, "require('hot-shots')"), []string{"node", "scripts/hot_shots.js", "aggregated"}},
		{"hot-shots/uds", append(node, "require('unix-dgram')"), []string{"node", "scripts/hot_shots.js", "uds"}},
		{"hot-shots/stream", append(node, "require('hot-shots')"), []string{"node", "scripts/hot_shots.js", "stream"}},
		{"node-statsd", append(node, "require('node-statsd')"), []string{"node", "scripts/node_statsd.js"}},
		{"statsd-client", append(node, "require('statsd-client')"), []string{"node", "scripts/statsd_client.js"}},
		{"bash/dev-udp", []string{"bash", "-c", "true"}, []string{"bash", "scripts/shell.sh", "dev"}},
		{"bash/nc-udp", []string{"nc.openbsd", "-h"}, []string{"bash", "scripts/shell.sh", "nc"}},
		{"bash/nc-unixgram", []string{"nc.openbsd", "-h"}, []string{"bash", "scripts/shell.sh", "nc-unixgram"}},
		{"bash/nc-unix", []string{"nc.openbsd", "-h"}, []string{"bash", "scripts/shell.sh", "nc-unix"}},
		{"bash/ncat-udp", []string{"ncat", "--version"}, []string{"bash", "scripts/shell.sh", "ncat"}},
		{"bash/ncat-unixgram", []string{"ncat", "--version"}, []string{"bash", "scripts/shell.sh", "ncat-unixgram"}},
		{"bash/socat-udp", []string{"socat", "-V"}, []string{"bash", "scripts/shell.sh", "socat"}},
		{"bash/socat-unixgram", []string{"socat", "-V"}, []string{"bash", "scripts/shell.sh", "socat-unixgram"}},
		{"bash/socat-unix", []string{"socat", "-V"}, []string{"bash", "scripts/shell.sh", "socat-unix"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			need(t, environment(nil), tt.needs...)
			a := start(t)
			want := newTotals()
			want.read(t, run(t, environment(a), tt.script...))
			a.compare(want)
		})
	}
}

// TestHTTP sends the examples that Flux, Pulse and DataCat publish, in the way of
// an SDK in each of four languages. The scripts look at each answer.
func TestHTTP(t *testing.T) {
	for name, script := range map[string][]string{
		"curl":   {"bash", "scripts/curl_http.sh"},
		"urllib": {"/usr/bin/python3", "scripts/urllib_http.py"},
		"fetch":  {"node", "scripts/fetch_http.js"},
		"ruby":   {"ruby", "scripts/net_http.rb"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tool := script[0]
			if name == "curl" {
				tool = "curl"
			}
			need(t, nil, tool, "--version")
			text, err := os.ReadFile("scripts/published.txt")
			if err != nil {
				t.Fatal(err)
			}
			a := start(t)
			run(t, environment(a), script...)
			want := newTotals()
			want.read(t, string(text))
			a.compare(want)
		})
	}
}
