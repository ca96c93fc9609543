package main

import (
	"fmt"
	"slices"
	"testing"

	"sluice/forwarder/fluxtest"
)

// TestEventsArrive sends events and checks among metrics, over every socket that takes
// lines, with a restart in between, and demands that Flux has each once, those of
// one socket in their order.
func TestEventsArrive(t *testing.T) {
	flux := fluxtest.New(t, unlimited(fluxtest.Options{MaxItems: 499}))
	s := setup{Flux: flux.URL, Dir: t.TempDir()}
	s.Listen = everySocket(s.Dir)
	sent := 0
	for round := range 2 {
		d := start(t, s)
		for short, network := range map[string]string{"udp": "udp", "gram": "unixgram", "stream": "unix"} {
			conn := d.dial(network)
			for i := range 20 {
				name := fmt.Sprintf("%s %d %02d", short, round, i)
				packet := fmt.Sprintf("beside:1|c\n_e{%d,4}:%s|text|#a:b\n_sc|check %s|%d|m:x", len(name), name, name, i%4)
				if network == "unix" {
					packet = framed(packet)
				}
				d.send(conn, packet)
				sent += 3
			}
		}
		d.taken(uint64(60 * 3))
		if round == 1 {
			d.delivered()
			if got := d.status().Upstreams[0].Ledger.Event.Delivered; got != uint64(sent*2/3) {
				t.Errorf("the ledger has %d events delivered, want %d", got, sent*2/3)
			}
		}
		d.balanced()
		d.terminate()
	}
	byTransport := map[string][]string{}
	for _, e := range flux.Events() {
		if e.Properties["kind"] == "event" {
			byTransport[e.Name[:3]] = append(byTransport[e.Name[:3]], e.Name)
		}
	}
	for transport, names := range byTransport {
		if len(names) != 40 || !slices.IsSorted(names) {
			t.Errorf("%s: %q, want 40 in order", transport, names)
		}
	}
	if got := len(flux.Events()); got != sent*2/3 || len(byTransport) != 3 {
		t.Errorf("%d events upstream over %d transports, want %d over 3", got, len(byTransport), sent*2/3)
	}
	if got, _ := flux.CounterTotal("beside").Whole(); got.Int64() != int64(sent/3) {
		t.Errorf("total beside them = %v, want %d", got, sent/3)
	}
}
