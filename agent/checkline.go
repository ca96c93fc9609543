package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"sluice/aggregator"
	"sluice/configs"
	"sluice/listeners"
)

// checkLines shows what the listeners would make of lines.
func checkLines(w io.Writer, stdin io.Reader, cfg configs.Config, lines []string) error {
	set, err := ruleSet(cfg.Aggregate)
	if err != nil {
		return err
	}
	refused := 0
	show := func(line string) {
		if !showLine(w, set, line) {
			refused++
		}
	}
	for _, line := range lines {
		if line != "-" {
			show(line)
			continue
		}
		in := bufio.NewScanner(stdin)
		in.Buffer(nil, listeners.MaxPacket)
		for in.Scan() {
			show(in.Text())
		}
		if err := in.Err(); err != nil {
			return fmt.Errorf("read lines from standard input: %w", err)
		}
	}
	switch refused {
	case 0:
		return nil
	case 1:
		return errors.New("a line is not taken")
	}
	return fmt.Errorf("%d lines are not taken", refused)
}

// showLine shows one line, which is told to be of a packet of its own.
func showLine(w io.Writer, set *listeners.RuleSet, line string) (taken bool) {
	naming := listeners.Naming{TagsInNames: true}
	parser := listeners.NewParser(&naming)
	parser.Start([]byte(line), false)
	batch, _ := parser.Next()
	fmt.Fprintln(w, printable(line))
	for _, e := range parser.Events() {
		showEvent(w, e)
		return true
	}
	if len(batch) == 0 {
		fmt.Fprintf(w, "  is     %s\n", whyNot(parser))
		return false
	}
	s := &batch[0]
	var key aggregator.Key
	key.Reset(s.Kind)
	reason := naming.Name(&key, s)
	var matched []int
	if reason == aggregator.Taken {
		matched, reason = set.Trace(&key)
	}
	if reason == aggregator.Taken {
		series := key.Series()
		fmt.Fprintf(w, "  is     %s %s %s\n", series.Kind(), series.Name(), values(batch))
		var tags []string
		for k, v := range series.Tags() {
			tags = append(tags, k+":"+v)
		}
		if len(tags) > 0 {
			fmt.Fprintf(w, "  tags   %s\n", strings.Join(tags, " "))
		}
	} else {
		fmt.Fprintf(w, "  is     not taken: %s\n", reason)
	}
	if len(matched) > 0 {
		fmt.Fprint(w, "  rules ")
		for _, i := range matched {
			fmt.Fprintf(w, " aggregate.rules[%d]", i)
		}
		fmt.Fprintln(w)
	}
	return reason == aggregator.Taken
}

// showEvent shows an event or a service check; rules are about metrics alone.
func showEvent(w io.Writer, e *aggregator.Event) {
	fmt.Fprintf(w, "  is     event %s %s\n", printable(string(e.Name)), printable(string(e.Properties)))
	var tags []string
	for k, v := range e.EachTag() {
		tags = append(tags, string(k)+":"+string(v))
	}
	if len(tags) > 0 {
		fmt.Fprintf(w, "  tags   %s\n", printable(strings.Join(tags, " ")))
	}
}

// whyNot is the reason that a parser has counted.
func whyNot(p *listeners.Parser) string {
	for reason, n := range p.Refused {
		if n > 0 {
			return "not taken: " + aggregator.Reason(reason).String()
		}
	}
	return "nothing"
}

// values are those of the samples of one line.
func values(batch []aggregator.Sample) string {
	var list []string
	for i := range batch {
		s := &batch[i]
		text := strconv.FormatFloat(s.Value, 'g', -1, 64)
		switch {
		case s.Kind == aggregator.Set:
			text = string(s.Member)
		case s.Flags&aggregator.Whole != 0:
			text = strconv.FormatInt(s.Whole, 10)
		case s.Flags&aggregator.Plus != 0:
			text = "+" + text
		}
		if s.Weight > 1 {
			text += " (" + strconv.FormatFloat(s.Weight, 'g', 6, 64) + " times)"
		}
		list = append(list, text)
	}
	return strings.Join(list, ", ")
}

// printable is text without what could move a terminal's cursor.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, text)
}
