package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func newTail() *cobra.Command {
	var f apiFlags
	var o struct {
		kind, transport    string
		tags               []string
		raw, refused, json bool
		rate, lines        int
		most               time.Duration
	}
	c := &cobra.Command{
		Use:   "tail [GLOB]",
		Short: "Show samples as they arrive at a running agent",
		Long: `tail shows what arrives, live: metrics whose name is what GLOB says (* and ?),
after the rules of the configuration, and events. Lines that are not taken are
shown with the reason. What is over --rate lines a second is counted and told,
not shown. An agent that nobody watches does nothing for it.`,
		Example: `  sluice tail 'api.*' -t route:/users
  sluice tail --refused
  sluice tail --raw --transport unixgram --for 10s`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("tail takes one GLOB, got %d (put quotes around it)", len(args))
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			if _, ok := lineTypes[o.kind]; o.kind != "" && o.kind != eventKind && !ok {
				return usagef("unknown kind %q (counter, gauge, distribution, set or event)", o.kind)
			}
			q := url.Values{"tag": o.tags}
			set := func(key, value string, when bool) {
				if when {
					q.Set(key, value)
				}
			}
			set("name", strings.Join(args, ""), len(args) > 0)
			set("kind", o.kind, o.kind != "")
			set("transport", o.transport, o.transport != "")
			set("refused", "1", o.refused)
			set("rate", strconv.Itoa(o.rate), c.Flags().Changed("rate"))
			api, err := f.client()
			if err != nil {
				return err
			}
			s := newScreen(c.OutOrStdout())
			shown := 0
			return follow(c.Context(), api, q, o.most, func(event string, data []byte) (bool, error) {
				if o.json {
					s.write(string(data) + "\n")
					shown++
				} else if err := showTail(s, event, data, o.raw); err != nil {
					return false, err
				} else if event == "line" {
					shown++
				}
				return s.err == nil && (o.lines == 0 || shown < o.lines), s.err
			})
		},
	}
	addAPIFlags(c, &f)
	fl := c.Flags()
	fl.StringVar(&o.kind, "kind", "", "only `KIND`: counter, gauge, distribution, set or event")
	completes(c, "kind", lineKinds...)
	fl.StringVar(&o.transport, "transport", "", "only `TEXT`: udp, unixgram, unix, http, or how a listener's name begins")
	completes(c, "transport", "udp", "unixgram", "unix", "http")
	fl.StringArrayVarP(&o.tags, "tag", "t", nil, "only with this tag, as `KEY:VALUE` or KEY; may be repeated")
	fl.BoolVar(&o.raw, "raw", false, "show lines as they came")
	fl.BoolVar(&o.refused, "refused", false, "only lines that are not taken")
	fl.BoolVar(&o.json, "json", false, "print JSON, one object a line")
	fl.IntVar(&o.rate, "rate", tailRate, "most `LINES` a second")
	fl.IntVarP(&o.lines, "lines", "n", 0, "stop after `N` lines")
	fl.DurationVar(&o.most, "for", 0, "stop after this `TIME`")
	return c
}

// follow reads events until each wants no more, the time is over, ctx is done, or
// the agent ends.
func follow(ctx context.Context, api *client, q url.Values, most time.Duration, each func(event string, data []byte) (more bool, err error)) error {
	asked := ctx
	if most > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, most)
		defer cancel()
	}
	body, err := api.open(ctx, http.MethodGet, "/api/agent/tail?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	defer body.Close()
	err = eachEvent(body, each)
	switch {
	case ctx.Err() != nil:
		return nil // interrupted, or the time is over: both are what was asked for
	case err == io.EOF && asked.Err() == nil:
		return fmt.Errorf("the agent at %s has ended", api.addr)
	}
	return err
}

// eachEvent reads server-sent events until each wants no more.
func eachEvent(body io.Reader, each func(event string, data []byte) (more bool, err error)) error {
	in := bufio.NewReaderSize(body, 64<<10)
	event := ""
	for {
		text, err := in.ReadString('\n')
		if err != nil {
			return err
		}
		text = strings.TrimSuffix(text, "\n")
		if name, ok := strings.CutPrefix(text, "event: "); ok {
			event = name
		} else if data, ok := strings.CutPrefix(text, "data: "); ok {
			if more, err := each(event, []byte(data)); err != nil || !more {
				return err
			}
		}
	}
}

// showTail writes one event for a person.
func showTail(s *screen, event string, data []byte, raw bool) error {
	if event == "skipped" {
		var k tailSkipped
		if err := json.Unmarshal(data, &k); err != nil {
			return err
		}
		s.line(bold, "-- not shown in this second: %s", k)
		return nil
	}
	var l tailLine
	if err := json.Unmarshal(data, &l); err != nil {
		return fmt.Errorf("read an event: %w (is it another version?)", err)
	}
	at := l.At.Local().Format("15:04:05.000")
	transport, _, _ := strings.Cut(l.Listener, ":")
	switch {
	case raw && l.Line != "":
		s.line("", "%s %s  %s", at, l.Listener, l.Line)
	case l.Refused != "" && l.Line != "":
		s.line(red, "%s %-8s  not taken: %s  %s", at, transport, l.Refused, l.Line)
	default:
		text := fmt.Sprintf("%s %-8s  %-12s %s %s", at, transport, l.Kind, l.Name, l.Value)
		for _, k := range slices.Sorted(maps.Keys(l.Tags)) {
			text += " " + k + ":" + l.Tags[k]
		}
		if l.Refused != "" {
			text += "  not taken: " + l.Refused
		}
		s.line("", "%s", text)
	}
	return nil
}

func (k tailSkipped) String() string {
	text := number(k.Lines) + " lines"
	if k.Packets > 0 {
		text += ", " + number(k.Packets) + " packets that nobody looked into"
	}
	return text
}
