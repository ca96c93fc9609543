package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"sluice/aggregator"
	"sluice/configs"
	"sluice/spool"
)

// fillSpool appends windows of 300 series, a minute for six of them, until there are n
// bytes of segments.
func fillSpool(t *testing.T, s *spool.Spool, n int64) (now time.Time) {
	t.Helper()
	now = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	if err := s.Attach(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	a := aggregator.New(aggregator.Options{Interval: 10 * time.Second, MaxLateness: time.Hour, MaxSeries: 100_000, MaxSetMembers: 10_000}, now)
	load := newLoad(a.Intake(nameOnly{}), 300)
	for s.Stats().Bytes < n {
		load.send(t, now)
		now = now.Add(10 * time.Second)
		for _, w := range a.Rotate(now) {
			m := spool.Meta{ID: w.ID, Start: w.Start, Width: w.Width, Flags: w.Flags(), Absent: w.Absent, Samples: w.Samples, Series: w.Series}
			if seq, err := s.Append(now, m, w.Parts()); seq == 0 || err != nil {
				t.Fatalf("Append = %d, %v: %+v", seq, err, s.Stats())
			}
			w.Release()
		}
	}
	return now
}

// A writer that does something before the first bytes.
type onceBefore struct {
	io.Writer
	do func()
}

func (w *onceBefore) Write(b []byte) (int, error) {
	if w.do != nil {
		w.do()
		w.do = nil
	}
	return w.Writer.Write(b)
}

// Whoever reads an export slowly holds up neither roll-up nor, behind that, delivery.
func TestExportHoldsNothing(t *testing.T) {
	o := spool.Options{Dir: filepath.Join(t.TempDir(), "spool"), MaxBytes: 4 << 20, Coarsen: func(windows [][][]byte) ([][]byte, [spool.Kinds]uint64, [spool.Kinds]uint64, error) {
		return aggregator.Coarsen(10_000, windows)
	}}
	s := spool.New(o)
	s.Outbox("flux")
	now := fillSpool(t, s, 34*o.MaxBytes/40)
	rolled := make(chan bool)
	var out bytes.Buffer
	err := localDesk{spool: s}.export(t.Context(), &onceBefore{&out, func() {
		go func() {
			done, _ := s.RollUp(context.Background(), now)
			rolled <- done
		}()
		select {
		case done := <-rolled:
			if !done {
				t.Error("there was nothing to roll up")
			}
		case <-time.After(30 * time.Second):
			t.Error("the roll-up waits for whoever reads the export")
			go func() { <-rolled }()
		}
	}})
	if err != nil || out.Len() == 0 {
		t.Errorf("export gave %d bytes, %v", out.Len(), err)
	}
}

// An export may take longer than other answers.
func TestExportTakesLong(t *testing.T) {
	cfg := configs.Default()
	cfg.Spool.Dir, cfg.Listen = filepath.Join(t.TempDir(), "spool"), configs.Listen{}
	a, err := newAgent("", cfg, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	a.spool.Outbox("flux")
	fillSpool(t, a.spool, 4<<20)
	mux := http.NewServeMux()
	a.spoolRoutes(mux)
	server := httptest.NewUnstartedServer(mux)
	server.Config.WriteTimeout = 100 * time.Millisecond
	server.Start()
	defer server.Close()
	// What buffers take is sent at once, so the client's is small.
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err == nil {
			err = c.(*net.TCPConn).SetReadBuffer(64 << 10)
		}
		return c, err
	}}}
	defer client.CloseIdleConnections()
	resp, err := client.Get(server.URL + spoolPath + "/export")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	time.Sleep(200 * time.Millisecond)
	n, err := io.Copy(io.Discard, resp.Body)
	if err != nil || n < 4<<20 {
		t.Errorf("read %d bytes of the export, then %v; want all, and more than buffers take", n, err)
	}
}
