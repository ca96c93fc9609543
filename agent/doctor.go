package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sluice/aggregator"
	"sluice/configs"
)

// How a check of the doctor ended.
const (
	healthy = "ok"
	warning = "warn" // works, but not as well as it could
	failing = "fail"
	skipped = "skip" // could not be checked
)

// A finding is what one check came to.
type finding struct {
	Is     string `json:"is"`
	What   string `json:"what"`
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"`
}

// A doctor checks one agent and its surroundings. It changes nothing: probes have
// a name that the agent refuses, so they get no further than its listeners, and the
// upstream is asked what the key may read, which costs nothing of the batch budget.
type doctor struct {
	findings []finding
	show     func(finding)

	config  configs.Config
	readAll bool // the configuration was read with its keys
	api     *client
	status  *statusPage // nil: no agent answers
}

func (d *doctor) find(is, what, text, remedy string) {
	f := finding{is, what, text, remedy}
	d.findings = append(d.findings, f)
	if d.show != nil {
		d.show(f)
	}
}

func newDoctor() *cobra.Command {
	var f apiFlags
	var asJSON, quick bool
	c := &cobra.Command{
		Use:   "doctor [--config FILE]",
		Short: "Check an agent and all around it, and say what to do",
		Long: `doctor checks the configuration, sends a probe through every listener, and looks
at receive buffers, socket modes, the spool's disk, the clock, and each upstream:
name, connection, certificate, key, and whether it can be read back. Run it as the
user of the agent, or as root. Nothing is changed, nothing reaches an upstream.
The exit status is 1 if something is wrong.`,
		Example: `  sluice doctor
  sluice doctor --json`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if quick {
				return takesSamples(c.Context(), &f)
			}
			d := new(doctor)
			s := newScreen(c.OutOrStdout())
			if !asJSON {
				d.show = func(f finding) { showFinding(s, f) }
			}
			d.examine(c.Context(), &f)
			count := map[string]int{}
			for _, f := range d.findings {
				count[f.Is]++
			}
			if asJSON {
				e := json.NewEncoder(c.OutOrStdout())
				e.SetIndent("", "  ")
				s.err = e.Encode(d.findings)
			} else {
				s.line(bold, "%d checks: %d to mend, %d to look at", len(d.findings), count[failing], count[warning])
			}
			if s.err == nil && count[failing] > 0 {
				return fmt.Errorf("%d of %d checks failed", count[failing], len(d.findings))
			}
			return s.err
		},
	}
	addAPIFlags(c, &f)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON, for programs")
	c.Flags().BoolVar(&quick, "quick", false, "only ask whether the agent takes samples, for health checks")
	return c
}

// takesSamples is the check for those who would restart the agent if it failed: like
// /readyz it says nothing of an upstream or a disk, for a restart mends neither.
func takesSamples(ctx context.Context, f *apiFlags) error {
	api, err := f.client()
	if err != nil {
		return err
	}
	p, err := readStatus(ctx, api)
	if err == nil && !p.Ready.OK {
		err = fmt.Errorf("the agent at %s takes no samples: %s", api.addr, p.Ready.Detail)
	}
	return err
}

func showFinding(s *screen, f finding) {
	style := ""
	if f.Is == failing {
		style = red
	}
	s.wrapped(style, fmt.Sprintf("%-4s  %s: %s", f.Is, f.What, f.Text))
	if f.Remedy != "" {
		s.wrapped("", "      -> "+f.Remedy)
	}
}

// examine runs all checks that the state of things allows.
func (d *doctor) examine(ctx context.Context, f *apiFlags) {
	d.checkConfig(f)
	d.checkAgent(ctx, f)
	if d.status != nil {
		d.probe(ctx)
		d.checkBuffers()
	}
	d.checkSockets()
	d.checkSpool()
	d.checkClock()
	for i := range d.config.Upstreams {
		trustAuthorities()
		d.checkUpstream(ctx, &d.config.Upstreams[i])
	}
	if len(d.config.Upstreams) == 0 {
		d.find(skipped, "upstream", "none is configured, so metrics stay on this host", "")
	}
}

func (d *doctor) checkConfig(f *apiFlags) {
	cfg, err := loadConfig(f.file)
	if err == nil {
		d.config, d.readAll = cfg, true
		name := cfg.File
		if name == "" {
			name = "no file, the defaults"
		}
		d.find(healthy, "configuration", name, "")
		for _, w := range cfg.Warnings {
			d.find(warning, "configuration", w, "")
		}
		return
	}
	for text := range strings.SplitSeq(err.Error(), "\n") {
		d.find(failing, "configuration", text, "")
	}
	if d.config, err = clientConfig(f.file); err != nil {
		d.config = configs.Default()
	}
}

func (d *doctor) checkAgent(ctx context.Context, f *apiFlags) {
	var err error
	if d.api, err = f.client(); err == nil {
		d.status, err = readStatus(ctx, d.api)
	}
	if err != nil {
		d.find(failing, "agent", err.Error(), "start it, or name it with --addr; what only a running one can tell is not checked")
		return
	}
	p := d.status
	d.find(healthy, "agent", fmt.Sprintf("%s at %s, up %s", p.Version, d.api.addr, span(p.at.Sub(p.Started))), "")
	if p.Version != version {
		d.find(warning, "agent", fmt.Sprintf("it is version %s, and this is %s", p.Version, version), "restart it after an upgrade")
	}
	if !p.Ready.OK {
		d.find(failing, "agent", "it takes no samples: "+p.Ready.Detail, "")
	}
	if p.Config.Error != "" {
		d.find(failing, "agent", "it refuses its configuration file and goes on with the one before: "+strings.ReplaceAll(p.Config.Error, "\n", "; "), "correct the file; it is read again by itself")
	}
	if len(p.Config.Restart) > 0 {
		d.find(warning, "agent", "keys that wait for a restart: "+strings.Join(p.Config.Restart, ", "), "restart it when it suits")
	}
	wrong := p.Ledger.wrong()
	for _, u := range p.Upstreams {
		wrong += u.Ledger.wrong()
	}
	if wrong != 0 {
		d.find(failing, "ledger", fmt.Sprintf("the books are wrong by %s samples", number(wrong)), "this is a fault in sluice; report it")
	}
	for _, f := range p.Series.Folded {
		remedy := "take the tag away in the program, or with aggregate.rules (drop_tags, classes)"
		if f.Metric == aggregator.FoldedValue {
			remedy = "let programs write what changes into tags and not into names, or give such metrics one name with aggregate.rules"
		}
		d.find(warning, "series", f.String(), remedy)
	}
}

// probeName begins the names of probes. It is one that clients may not use, so that
// a probe is refused when everything about it has been understood.
const probeName = "sluice.doctor."

// probeWait is how long a probe may take through an agent that is busy.
const probeWait = 5 * time.Second

var errNotSeen = errors.New("the probe did not arrive")
