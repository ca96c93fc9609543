package main

import (
	"io"
	"path/filepath"
	"testing"
	"time"

	"sluice/configs"
	"sluice/forwarder"
)

// Whoever asks how an upstream is doing, while it goes, does not make it one that is
// configured again: what it is owed would never go.
func TestStatusOfRemovedUpstream(t *testing.T) {
	cfg := configs.Default()
	cfg.Spool.Dir, cfg.Listen = filepath.Join(t.TempDir(), "spool"), configs.Listen{}
	a, err := newAgent("", cfg, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.spool.Attach(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	defer a.spool.Close()
	d := newDelivery(forwarder.Options{Name: "gone", Type: forwarder.Flux, RequestsPerMinute: 10, ItemsPerRequest: 499, Interval: 10 * time.Second}, a.spool, nil)
	a.deliveries = []*delivery{d} // as a request has them that began before
	a.spool.Release(d.name)
	a.status(time.Now())
	a.ownFigures(time.Now())
	a.waiting()
	a.appendMetrics(nil, time.Now())
	if box, ok := a.spool.Find(d.name); !ok || box.Configured() {
		t.Errorf("there is an outbox: %v, and asking made it a configured one", ok)
	}
}
