package main

import (
	"errors"
	"fmt"
	"math"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"sluice/aggregator"
	"sluice/listeners"
)

func newSend() *cobra.Command {
	var file, addr string
	var tags []string
	c := &cobra.Command{
		Use:   "send KIND NAME VALUE [-t key:value]...",
		Short: "Send one metric to a running agent",
		Long: `send writes one metric as a DogStatsD line to a datagram socket of the agent.
KIND is counter, gauge, distribution or set. The socket is the first one of the
configuration, or --addr: HOST:PORT for UDP, or the path of a Unix socket.`,
		Example: `  sluice send counter api.requests 1 -t route:/users -t method:GET
  sluice send distribution api.time 145.2 --addr 127.0.0.1:8125
  sluice send gauge queue.size -- -5`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 3 {
				return usagef("send takes KIND NAME VALUE, got %d arguments (see sluice send --help)", len(args))
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			line, err := metricLine(args[0], args[1], args[2], tags)
			if err != nil {
				return err
			}
			if addr == "" {
				if addr, err = firstSocket(file); err != nil {
					return err
				}
			}
			if err := sendDatagram(addr, line); err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "sent to %s: %s\n", addr, line)
			return err
		},
	}
	c.ValidArgsFunction = func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return lineKinds, cobra.ShellCompDirectiveNoFileComp
	}
	configFlag(c, &file)
	c.Flags().StringVar(&addr, "addr", "", "`ADDRESS` to send to (default from the configuration)")
	c.Flags().StringArrayVarP(&tags, "tag", "t", nil, "tag, as `KEY:VALUE`; may be repeated")
	return c
}

// lineKinds are the kinds that a line can have.
var lineKinds = []string{"counter", "gauge", "distribution", "set"}

var lineTypes = map[string]string{"counter": "c", "gauge": "g", "distribution": "d", "set": "s"}

// metricLine writes a line that the agent takes as it was meant, or says why
// there is none.
func metricLine(kind, name, value string, tags []string) (string, error) {
	typ, ok := lineTypes[kind]
	if !ok {
		return "", usagef("unknown kind %q (counter, gauge, distribution or set)", kind)
	}
	if name == "" || len(name) > aggregator.MaxName || strings.ContainsAny(name, ":|\n=") {
		return "", usagef("name %q: must have 1 to %d bytes, and no ':', '|', '=' or line break", name, aggregator.MaxName)
	}
	if strings.HasPrefix(name, "sluice.") {
		return "", usagef("name %q: names that start with sluice. are the agent's own", name)
	}
	if kind != "set" && !isNumber(value) {
		return "", usagef("value %q of a %s: not a decimal number", value, kind)
	}
	if value == "" || strings.ContainsAny(value, "|\n") {
		return "", usagef("value %q: must not be empty or contain '|' or a line break", value)
	}
	for _, t := range tags {
		if strings.ContainsAny(t, ",|\n") || strings.HasPrefix(t, ":") || t == "" {
			return "", usagef("tag %q: write key:value, without ',', '|' or line breaks", t)
		}
	}
	line := name + ":" + value + "|" + typ
	if len(tags) > 0 {
		line += "|#" + strings.Join(tags, ",")
	}
	naming := listeners.Naming{TagsInNames: true, ClientTelemetry: true}
	parser := listeners.NewParser(&naming)
	parser.Start([]byte(line), false)
	batch, _ := parser.Next()
	if len(batch) != 1 { // such as a name of spaces alone
		return "", usagef("the line %q is %s (docs/protocols.md)", line, whyNot(parser))
	}
	var key aggregator.Key
	key.Reset(batch[0].Kind)
	if reason := naming.Name(&key, &batch[0]); reason != aggregator.Taken {
		return "", usagef("the line %q is not taken: %s (docs/protocols.md)", line, reason)
	}
	return line, nil
}

// isNumber tells whether text is a number as the protocol has it: decimal and
// finite (docs/protocols.md). ParseFloat takes more.
func isNumber(text string) bool {
	v, err := strconv.ParseFloat(text, 64)
	return err == nil && !math.IsInf(v, 0) && !math.IsNaN(v) && !strings.ContainsAny(text, "xX_")
}

// firstSocket finds out where the agent listens.
func firstSocket(file string) (string, error) {
	cfg, err := clientConfig(file)
	if err != nil {
		return "", fmt.Errorf("%w (use --addr to do without)", err)
	}
	switch {
	case len(cfg.Listen.UDP) > 0:
		return cfg.Listen.UDP[0], nil
	case len(cfg.Listen.Unixgram) > 0:
		return cfg.Listen.Unixgram[0].Path, nil
	}
	return "", errors.New("the configuration has no datagram socket to send to (set listen.udp or listen.unixgram, or use --addr)")
}

// dialDatagram opens a socket to send to: host:port, or the path of a Unix one.
func dialDatagram(addr string) (net.Conn, error) {
	network, addr := "udp", strings.TrimPrefix(strings.TrimPrefix(addr, "udp:"), "//")
	path := strings.TrimPrefix(strings.TrimPrefix(addr, "unixgram:"), "unix:") // the latter as other commands have it
	if path = strings.TrimPrefix(path, "//"); strings.HasPrefix(path, "/") {
		network, addr = "unixgram", path
	}
	conn, err := net.Dial(network, addr)
	if err != nil {
		return nil, sendError(addr, err)
	}
	return conn, nil
}

// sendDatagram writes line to a socket. UDP has no answer, but the kernel says
// when nobody listens on an address of this host.
func sendDatagram(addr, line string) error {
	conn, err := dialDatagram(addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte(line))
	if err == nil && conn.RemoteAddr().Network() == "udp" {
		conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if _, readErr := conn.Read(make([]byte, 1)); errors.Is(readErr, syscall.ECONNREFUSED) {
			err = readErr
		}
	}
	if err != nil {
		return sendError(conn.RemoteAddr().String(), err)
	}
	return nil
}

func sendError(addr string, err error) error {
	hint := ""
	switch err = cause(err); {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOENT):
		hint = " (is sluice running? start it with: sluice run)"
	case errors.Is(err, syscall.EPROTOTYPE):
		hint = " (it takes streams: name a socket of listen.unixgram)"
	}
	return fmt.Errorf("send to %s: %w%s", addr, err, hint)
}
