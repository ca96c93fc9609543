//go:build linux

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"
)

// interval is that of the daemon's windows: closing them is weighted five
// times more than with the usual 10 s.
const interval = "interval: 2s"

// compare loads the daemon, the floor and the reference in turn.
func compare(w *workload, dir string) (err error) {
	var programs []*program
	defer func() {
		for _, p := range programs {
			err = errors.Join(err, p.stop())
		}
		for _, p := range programs {
			if err == nil && p.dir != "" && p.dropped == 0 {
				err = p.contents()
			}
		}
	}()
	begin := func(p *program, startErr error) error {
		if startErr != nil {
			return startErr
		}
		programs = append(programs, p)
		return nil
	}
	if err := begin(startDaemon("sluice", *daemon, w.network, dir, interval)); err != nil {
		return err
	}
	if *second != "" {
		if err := begin(startDaemon("against", *second, w.network, dir, interval)); err != nil {
			return err
		}
	}
	if *readers > 0 {
		if err := begin(startReaders(*readers, fmt.Sprint("readers=", *readers), *daemon, w.network, dir, interval)); err != nil {
			return err
		}
	}
	for _, peer := range peers {
		if err := begin(startPeer(peer, w.network, dir)); err != nil {
			return err
		}
	}
	for _, what := range []string{"floor", "reference"} {
		if err := begin(startReceiver(what, w.network, dir)); err != nil {
			return err
		}
	}
	corpus := render(w)
	for _, p := range programs {
		if p.sender, err = dial(w.network, p.addr, corpus); err != nil {
			return err
		}
	}
	for round := range 1 + *rounds {
		for _, p := range programs {
			m, err := p.window(w.rate, *width)
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			if round > 0 {
				p.windows = append(p.windows, m)
			}
		}
	}
	for _, p := range programs {
		if p.dir == "" {
			continue
		}
		if err := p.books(); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	tell(w, programs)
	return nil
}

// window loads a program for a while.
func (p *program) window(rate int, during time.Duration) (m measured, err error) {
	samples, packets := p.sender.samples, p.sender.packets
	_, dropped, _ := socket(p.addr)
	begin, cpu := time.Now(), p.cpu()
	if err := p.sender.run(rate, during, 0); err != nil {
		return m, err
	}
	p.drain()
	m.cpu, m.wall = p.cpu()-cpu, time.Since(begin)
	_, now, _ := socket(p.addr)
	m.samples, m.packets, m.lost = p.sender.samples-samples, p.sender.packets-packets, now-dropped
	return m, nil
}

// cost is CPU per sample that was received, in microseconds.
func (m *measured) cost() float64 {
	received := float64(m.samples) * (1 - float64(m.lost)/float64(m.packets))
	return float64(m.cpu.Nanoseconds()) / 1e3 / received
}

func (p *program) median(of func(*measured) float64) float64 {
	var all []float64
	for i := range p.windows {
		all = append(all, of(&p.windows[i]))
	}
	slices.Sort(all)
	return (all[(len(all)-1)/2] + all[len(all)/2]) / 2
}

// against is the median of the ratios of windows that followed each other.
func (p *program) against(other *program) float64 {
	var all []float64
	for i := range p.windows {
		all = append(all, p.windows[i].cost()/other.windows[i].cost())
	}
	slices.Sort(all)
	return (all[(len(all)-1)/2] + all[len(all)/2]) / 2
}

func tell(w *workload, programs []*program) {
	floor, reference := programs[len(programs)-2], programs[len(programs)-1]
	fmt.Printf("%s\n", w.name)
	for _, p := range programs {
		_, peak := p.memory()
		var lost, packets float64
		for _, m := range p.windows {
			lost += float64(m.lost)
			packets += float64(m.packets)
		}
		fmt.Printf("  %-15s %6.3f us/sample, %5.2f x floor, %5.2f x reference, %9.0f samples/s, lost %.3f %%, peak %.1f MiB\n", p.name,
			p.median((*measured).cost), p.against(floor), p.against(reference),
			p.median(func(m *measured) float64 { return float64(m.samples) / m.wall.Seconds() }), 100*lost/packets, float64(peak)/(1<<20))
	}
}

// many sends every series once and again, and watches what the windows that
// hold them cost to take and to close.
func many(w *workload, dir string) (err error) {
	settings := fmt.Sprintf("interval: 15s, max_series: %d, max_series_per_metric: %d", min(2*w.series, 1_000_000), min(2*w.series, 1_000_000))
	p, err := startDaemon("sluice", *daemon, w.network, dir, settings)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, p.stop()); err == nil && p.dropped == 0 {
			err = p.contents()
		}
	}()
	if p.sender, err = dial(w.network, p.addr, render(w)); err != nil {
		return err
	}
	time.Sleep(time.Second)
	idle, _ := p.memory()
	fmt.Printf("%s\n", w.name)
	for pass := range 2 {
		cpu := p.cpu()
		if err := p.sender.run(w.rate, time.Hour, w.series); err != nil {
			return err
		}
		p.drain()
		taken := p.cpu() - cpu
		time.Sleep(17 * time.Second)
		flushed := p.cpu() - cpu - taken
		now, peak := p.memory()
		_, dropped, _ := socket(p.addr)
		lost := float64(dropped) / float64(p.sender.packets) // each line is another series: so many did not arrive
		arrived := float64(w.series) * (1 - lost)
		fmt.Printf("  pass %d: %.2f s CPU to take, %.2f s until the window was stored; %.0f bytes/series at the peak, %.0f after; lost %.1f %%\n", pass+1,
			taken.Seconds(), flushed.Seconds(), float64(peak-idle)/arrived, float64(now-idle)/arrived, 100*lost)
	}
	return p.books()
}

func (p *program) closed() uint64 {
	s, _ := p.status()
	return s.Windows.Closed
}

// idle starts the daemon and lets it be.
func idle(w *workload, dir string) error {
	var starts []float64
	for range 5 {
		begin := time.Now()
		p, err := startDaemon("sluice", *daemon, w.network, dir, interval)
		if err != nil {
			return err
		}
		if err := p.first(); err != nil {
			return err
		}
		starts = append(starts, float64(time.Since(begin).Microseconds())/1e3)
		if len(starts) == 5 {
			time.Sleep(2 * time.Second)
			cpu := p.cpu()
			time.Sleep(60 * time.Second)
			now, _ := p.memory()
			fmt.Printf("%s\n  %.1f MiB resident, %.3f %% CPU over 60 s", w.name, float64(now)/(1<<20), 100*(p.cpu()-cpu).Seconds()/60)
		}
		if err := p.stop(); err != nil {
			return err
		}
	}
	slices.Sort(starts)
	info, err := os.Stat(*daemon)
	if err != nil {
		return err
	}
	fmt.Printf(", %.1f ms from start to the first packet, binary %.1f MB\n", starts[2], float64(info.Size())/1e6)
	return nil
}

// first sends one datagram and waits until it has been read.
func (p *program) first() error {
	c, err := net.Dial("udp4", p.addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write([]byte("first:1|c")); err != nil {
		return err
	}
	for range 50_000 {
		if waiting, _, _ := socket(p.addr); waiting == 0 {
			return nil
		}
		time.Sleep(100 * time.Microsecond)
	}
	return errors.New("the first packet is not read")
}

// overload sends as much as two threads can, in datagrams of one line, while the
// daemon may use one CPU: it cannot keep up. Memory must stay, windows must close
// in time, and every datagram must be read or counted as dropped.
func overload(w *workload, dir string) (err error) {
	p, err := startDaemon("sluice", *daemon, w.network, dir, interval)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	corpus := render(w)
	if p.sender, err = dial(w.network, p.addr, corpus); err != nil {
		return err
	}
	other, err := dial(w.network, p.addr, corpus)
	if err != nil {
		return err
	}
	defer other.close()
	if err := p.sender.run(50_000, 4*time.Second, 0); err != nil { // the usual
		return err
	}
	calm, _ := p.memory()
	p.resetPeak()
	closed, begin := p.closed(), time.Now()
	sent := make(chan error, 1)
	go func() { sent <- other.run(0, 20*time.Second, 0) }()
	if err := errors.Join(p.sender.run(0, 20*time.Second, 0), <-sent); err != nil {
		return err
	}
	p.drain()
	windows, took := p.closed()-closed, time.Since(begin)
	_, peak := p.memory()
	p.sender.packets += other.packets
	p.sender.samples += other.samples
	if err := p.books(); err != nil {
		return err
	}
	_, dropped, _ := socket(p.addr)
	fmt.Printf("%s\n  %d datagrams in %.0f s, %.1f %% dropped by the kernel and counted exactly; memory %.1f MiB before, %.1f at most; %d windows of 2 s\n",
		w.name, p.sender.packets, took.Seconds(), 100*float64(dropped)/float64(p.sender.packets), float64(calm)/(1<<20), float64(peak)/(1<<20), windows)
	return nil
}
