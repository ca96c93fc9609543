package main

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"syscall"
	"time"

	"sluice/aggregator"
	"sluice/configs"
	"sluice/listeners"
	"sluice/listeners/origin"
)

// A change is a configuration that is about to be in effect. What could fail
// has been done: tags and rules are compiled, and new sockets are open.
type change struct {
	config configs.Config
	read   configs.Config // the same, as the file has it
	rules  *listeners.RuleSet
	opened []*socket
	later  []endpoint // whose address is taken by a socket that this change ends
	ended  []*socket
}

// abandon closes what prepare has opened.
func (c *change) abandon() {
	for _, s := range c.opened {
		s.close()
	}
}

// prepare makes a change of the configuration that runs into another; at the
// start none runs. It starts nothing and stops nothing, so that a configuration
// that cannot be had leaves everything as it was.
func (a *agent) prepare(cfg configs.Config) (_ *change, err error) {
	running := a.now()
	if len(cfg.Upstreams) > 0 {
		trustAuthorities()
	}
	for i, u := range cfg.Upstreams {
		for _, was := range running.config.Upstreams {
			if was.Name == u.Name && was.Type != u.Type {
				return nil, fmt.Errorf("upstreams[%d].type: the upstream %s is of type %s already, and what is queued for it was rendered for that; give the new one another name", i, u.Name, was.Type)
			}
		}
	}
	c := &change{config: cfg, read: cfg}
	if c.rules, err = ruleSet(cfg.Aggregate); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.abandon()
		}
	}()
	wanted := a.wanted(cfg.Listen)
	for _, s := range running.sockets {
		if !slices.Contains(wanted, s.endpoint) {
			c.ended = append(c.ended, s)
		}
	}
	for _, e := range without(wanted, a.tried) {
		s, err := a.open(e)
		switch {
		case err == nil:
			c.opened = append(c.opened, s)
		case errors.Is(err, syscall.EADDRINUSE) && slices.ContainsFunc(c.ended, func(s *socket) bool { return s.inTheWayOf(e) }):
			c.later = append(c.later, e)
		case e.beside:
			a.log.Warn("not on IPv6", "error", err)
		default:
			return nil, err
		}
	}
	return c, nil
}

// commit puts a change into effect. Only what differs is touched: windows,
// queues and sockets that are the same in both stay as they are.
func (a *agent) commit(c *change) {
	cfg := c.config
	a.level.UnmarshalText([]byte(cfg.Log.Level)) // one of four words: configs has checked
	a.guard(cfg.Listen)
	a.tellInherited(cfg.Listen)
	a.aggregator.Configure(aggregatorOptions(cfg.Aggregate))
	limitMemory(cfg.Aggregate.MaxSeries, cgroups, ownGroup)
	known := a.origins.Configure(originOptions(cfg.Origin))
	if a.rules.Set(c.rules) || known {
		a.aggregator.Forget()
	}
	a.exposed.configure(cfg.Expose, cfg.Aggregate.MaxSeries)
	end(c.ended)
	var missing []error
	var closed []endpoint
	for _, e := range c.later {
		s, err := a.open(e)
		if err != nil && e.beside {
			a.log.Warn("not on IPv6", "error", err)
			continue
		}
		if err != nil {
			missing, closed = append(missing, err), append(closed, e)
			continue
		}
		c.opened = append(c.opened, s)
	}
	for _, s := range c.opened {
		a.start(s)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	sockets := slices.DeleteFunc(slices.Clone(a.sockets), func(s *socket) bool { return slices.Contains(c.ended, s) })
	a.sockets = inOrder(append(sockets, c.opened...), a.wanted(cfg.Listen))
	a.tried = without(a.wanted(cfg.Listen), closed)
	a.missing = errors.Join(missing...)
	a.deliverLocked(cfg)
	a.config, a.read, a.loaded = cfg, c.read, time.Now()
	a.own.wakeUp()
}

// inOrder sorts sockets like their endpoints.
func inOrder(sockets []*socket, as []endpoint) []*socket {
	slices.SortStableFunc(sockets, func(x, y *socket) int { return slices.Index(as, x.endpoint) - slices.Index(as, y.endpoint) })
	return sockets
}

// deliverLocked begins, changes and ends deliveries.
func (a *agent) deliverLocked(cfg configs.Config) {
	var next []*delivery
	for _, u := range cfg.Upstreams {
		o := forwarderOptions(u, cfg, a.log)
		if d := find(a.deliveries, u.Name); d != nil {
			d.change(o)
			next = append(next, d)
			continue
		}
		var after <-chan struct{}
		if d := find(a.leaving, u.Name); d != nil {
			after = d.done
		}
		d := newDelivery(o, a.spool, after)
		next = append(next, d)
		a.delivering.Go(func() { d.run(a.abort) })
	}
	for _, d := range a.deliveries {
		if find(next, d.name) == nil {
			a.leaving = append(a.leaving, d)
			d.stop()
			a.delivering.Go(func() { a.left(d) })
		}
	}
	a.deliveries = next
}

// left waits until a delivery has ended whose upstream is no longer configured.
func (a *agent) left(d *delivery) {
	<-d.done
	a.mu.Lock()
	defer a.mu.Unlock()
	a.leaving = slices.DeleteFunc(a.leaving, func(l *delivery) bool { return l == d })
	if find(a.deliveries, d.name) == nil && find(a.leaving, d.name) == nil {
		a.spool.Release(d.name)
	}
}

// find returns the last delivery of an upstream, or nil.
func find(list []*delivery, name string) *delivery {
	for _, d := range slices.Backward(list) {
		if d.name == name {
			return d
		}
	}
	return nil
}

func aggregatorOptions(c configs.Aggregate) aggregator.Options {
	return aggregator.Options{
		Interval:           c.Interval,
		MaxLateness:        c.MaxLateness,
		MaxSeries:          c.MaxSeries,
		MaxSeriesPerMetric: c.MaxSeriesPerMetric,
		MaxSetMembers:      c.MaxSetMembers,
		ManySeries:         manySeries,
		NegativeDelta:      c.NegativeGauges == "delta",
	}
}

func originOptions(c configs.Origin) origin.Options {
	return origin.Options{
		Detect:    c.Detect,
		Kubelet:   c.Kubelet,
		TokenFile: c.KubeletTokenFile,
		CAFile:    c.KubeletCAFile,
		Insecure:  c.KubeletInsecure,
		MapFile:   c.MapFile,
		Proc:      c.Proc,
		Cgroups:   c.Cgroups,
		Tags:      c.Tags,
		Labels:    c.Labels,
	}
}

// guard puts the guard that a configuration asks for before the local API.
func (a *agent) guard(l configs.Listen) {
	h := listeners.Guard{AllowedHosts: l.AllowedHosts, Token: l.HTTPToken.Reveal()}.Wrap(a.routes)
	a.guarded.Store(&h)
}

func (a *agent) serveGuarded(w http.ResponseWriter, r *http.Request) {
	(*a.guarded.Load()).ServeHTTP(w, r)
}
