package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"sluice/configs"
	"sluice/spool"
)

func newSpool() *cobra.Command {
	c := &cobra.Command{
		Use:   "spool",
		Short: "Look at what is kept on disk, check it, and settle dead letters",
		Long: `spool works on the spool of a running agent, which it asks, and on the folder of
a stopped one, which it opens itself. It changes nothing but what retry and drop
are told to.`,
		Example: `  sluice spool ls
  sluice spool verify
  sluice spool export | jq 'select(.kind == "counter")'
  sluice spool dead
  sluice spool retry 17 18
  sluice spool drop --all`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("spool takes a command: ls, verify, export, dead, retry or drop (see sluice spool --help)")
			}
			return usagef("unknown command %q of spool (ls, verify, export, dead, retry or drop)", args[0])
		},
		RunE: func(*cobra.Command, []string) error { return nil },
	}
	c.AddCommand(
		spoolCommand("ls", "List segments, other files and what upstreams are owed", "", nil, func(c *cobra.Command, d spoolDesk, _ []string) error {
			doc, err := d.list(c.Context())
			if err != nil {
				return err
			}
			return doc.print(c.OutOrStdout())
		}),
		newSpoolVerify(),
		spoolCommand("export", "Write all windows as JSON lines, a line per series or event", "", nil, func(c *cobra.Command, d spoolDesk, _ []string) error {
			w := bufio.NewWriter(c.OutOrStdout())
			return errors.Join(d.export(c.Context(), w), w.Flush())
		}),
		spoolCommand("dead", "List the items that upstreams refused for good", "", nil, func(c *cobra.Command, d spoolDesk, _ []string) error {
			list, err := d.dead(c.Context())
			if err != nil {
				return err
			}
			return printLetters(c.OutOrStdout(), list)
		}),
		newLetters(verbRetry, "Send dead letters once more", "%d dead letters will be sent once more\n"),
		newLetters(verbDrop, "Give dead letters up; they are counted as dropped", "%d dead letters are dropped\n"),
	)
	return c
}

// spoolCommand is a command that works at a desk.
func spoolCommand(name, short, use string, flags func(*cobra.Command), do func(*cobra.Command, spoolDesk, []string) error) *cobra.Command {
	var at place
	c := &cobra.Command{
		Use: strings.TrimSpace(name + " " + use), Short: short, Example: "  sluice spool " + name,
		Args: noArgs,
		RunE: func(c *cobra.Command, args []string) error {
			desk, done, err := at.open(c)
			if err != nil {
				return err
			}
			return errors.Join(do(c, desk, args), done())
		},
	}
	at.flags(c)
	if flags != nil {
		flags(c)
	}
	return c
}

// newLetters makes retry or drop.
func newLetters(verb, short, said string) *cobra.Command {
	var which lettersDoc
	flags := func(c *cobra.Command) {
		c.Flags().BoolVar(&which.All, "all", false, "all of them")
		c.Flags().StringVar(&which.Upstream, "upstream", "", "`NAME` of the upstream, if there are several")
		c.Example = "  sluice spool " + verb + " 17 18\n  sluice spool " + verb + " --all"
	}
	c := spoolCommand(verb, short, "ID...|--all", flags, func(c *cobra.Command, d spoolDesk, args []string) error {
		for _, text := range args {
			id, _ := strconv.ParseUint(text, 10, 64) // Args has seen that it is one
			which.IDs = append(which.IDs, id)
		}
		n, err := d.letters(c.Context(), verb, which)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), said, n)
		return err
	})
	c.Args = func(c *cobra.Command, args []string) error {
		for _, text := range args {
			if _, err := strconv.ParseUint(text, 10, 64); err != nil {
				return usagef("%q is no number of a dead letter (sluice spool dead lists them)", text)
			}
		}
		if which.All == (len(args) > 0) {
			return usagef("spool %s takes the numbers of dead letters, or --all (sluice spool dead lists them)", verb)
		}
		return nil
	}
	return c
}

// newSpoolVerify is apart, for of a stopped agent it checks every file before
// one is opened.
func newSpoolVerify() *cobra.Command {
	return spoolCommand("verify", "Read all of it, check every checksum, and add the ledgers up anew", "", nil, func(c *cobra.Command, d spoolDesk, _ []string) error {
		doc, err := d.verify(c.Context())
		if err != nil {
			return err
		}
		files := "files that are not being written" // of the others what is in them is read
		if stopped, ok := d.(stoppedDesk); ok {
			files, doc.Files = "files", stopped.files
			doc.Faults = append(stopped.faults, doc.Faults...)
		}
		w := c.OutOrStdout()
		fmt.Fprintf(w, "%d %s, %d windows, %d batches, %d dead letters, the ledgers of %d upstreams\n", doc.Files, files, doc.Windows, doc.Batches, doc.DeadLetters, len(doc.Upstreams))
		for _, f := range doc.Faults {
			fmt.Fprintln(w, f)
		}
		if n := len(doc.Faults); n > 0 {
			return fmt.Errorf("verify: faults found: %d (at its next start the agent sets damaged files aside and goes on)", n)
		}
		fmt.Fprintln(w, "all is as it was written, and the books balance")
		return nil
	})
}

// A place is where a spool is looked for.
type place struct{ file, addr, dir string }

func (p *place) flags(c *cobra.Command) {
	configFlag(c, &p.file)
	c.Flags().StringVar(&p.addr, "addr", "", "`ADDRESS` of a running agent's HTTP listener (default from the configuration)")
	c.Flags().StringVar(&p.dir, "dir", "", "`FOLDER` of a stopped agent's spool (default from the configuration)")
}

// open asks the agent at --addr; else it opens the folder, and when an agent is
// running on that, it asks this one.
func (p *place) open(c *cobra.Command) (d spoolDesk, done func() error, err error) {
	done = func() error { return nil }
	var cfg configs.Config
	if p.dir == "" || p.addr == "" {
		if cfg, err = clientConfig(p.file); err != nil {
			return nil, nil, err
		}
	}
	if p.addr == "" {
		if p.dir != "" {
			cfg.Spool.Dir = p.dir
		}
		if cfg.Spool.Dir == "" {
			if cfg.Spool.Dir, err = configs.DefaultSpoolDir(os.LookupEnv); err != nil {
				return nil, nil, fmt.Errorf("spool.dir: %w", err)
			}
		}
		d, done, err = openStopped(c, cfg.Spool)
		if !errors.Is(err, spool.ErrLocked) {
			return d, done, err
		}
		done = func() error { return nil }
		if p.dir != "" && p.file == "" { // the configuration may be another agent's
			return nil, nil, fmt.Errorf("%w (an agent is running on it: use --addr)", err)
		}
	}
	client, err := newClient(cfg, p.addr)
	return remoteDesk{client}, done, err
}

// stoppedDesk is a folder that no agent uses.
type stoppedDesk struct {
	localDesk
	files  int
	faults []string // found before it was opened
}

func openStopped(c *cobra.Command, cfg configs.Spool) (spoolDesk, func() error, error) {
	d := stoppedDesk{localDesk: localDesk{dir: cfg.Dir, maxBytes: int64(cfg.MaxBytes)}}
	err := spool.CheckFolder(cfg.Dir, func(name string, _ int64, err error) {
		if d.files++; err != nil {
			d.faults = append(d.faults, err.Error())
		}
	})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil, fmt.Errorf("there is no spool in %s (name it with --dir, or the configuration with --config)", cfg.Dir)
	case errors.Is(err, fs.ErrPermission):
		return nil, nil, fmt.Errorf("%w (the folder is the agent's own: run this as its user, or as root)", err)
	case err != nil:
		return nil, nil, err
	}
	d.spool = spool.New(spool.Options{Dir: cfg.Dir, MaxBytes: int64(cfg.MaxBytes), Guest: true})
	if err := d.spool.Attach(c.Context(), time.Now()); err != nil {
		if len(d.faults) > 0 {
			err = errors.New(strings.Join(d.faults, "\n"))
		}
		return nil, nil, err
	}
	if c.Name() != "verify" { // which has them in its result
		for _, f := range d.faults {
			fmt.Fprintf(c.ErrOrStderr(), "sluice: warning: left out: %s\n", f)
		}
	}
	return d, d.spool.Close, nil
}

// letters leaves the books alone while a file is missing in them.
func (d stoppedDesk) letters(ctx context.Context, verb string, which lettersDoc) (int, error) {
	if len(d.faults) > 0 {
		return 0, fmt.Errorf("%s: files are damaged; start the agent first, which sets them aside", verb)
	}
	return d.localDesk.letters(ctx, verb, which)
}

func (doc *spoolListDoc) print(out io.Writer) error {
	fmt.Fprintf(out, "%s: %d bytes of %v, last window %d\n\n", doc.Dir, doc.Bytes, configs.Size(doc.MaxBytes), doc.LastSeq)
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "FILE\tBYTES\tWINDOWS\tSEQUENCES\tFROM\tTO\tOWED TO")
	for _, g := range doc.Segments {
		if g.Windows == 0 {
			fmt.Fprintf(w, "%s\t%d\t0\t\t\t\t\n", g.File, g.Bytes)
			continue
		}
		owed := "nobody"
		if len(g.Owed) > 0 {
			owed = strings.Join(g.Owed, " ")
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%d-%d\t%s\t%s\t%s\n", g.File, g.Bytes, g.Windows, g.First, g.Last, g.Start.Format(time.RFC3339), g.End.Format(time.RFC3339), owed)
	}
	for _, f := range doc.Files {
		fmt.Fprintf(w, "%s\t%d\n", f.File, f.Bytes)
	}
	if len(doc.Upstreams) > 0 {
		fmt.Fprintln(w, "\nUPSTREAM\tWINDOWS OWED\tBATCHES\tBYTES\tDEAD LETTERS")
	}
	for _, u := range doc.Upstreams {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\n", u.Name, u.Windows, u.Batches, u.BatchBytes, u.DeadLetters)
	}
	return w.Flush()
}

// printLetters lists dead letters: text from outside is cut, and cannot move a cursor.
func printLetters(out io.Writer, list []letterDoc) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(out, "there are no dead letters")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "UPSTREAM\tID\tMETRIC\tKIND\tSAMPLES\tAT\tREASON\tANSWER")
	for _, l := range list {
		reason := strings.TrimSuffix(l.Reason, ": "+l.Answer) // which stands beside it
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%d\t%s\t%s\t%s\n", l.Upstream, l.ID, cut(l.Metric, 64), l.Kind, l.Samples, l.At.Format(time.RFC3339), cut(reason, 80), cut(l.Answer, 120))
	}
	return w.Flush()
}

// cut keeps text to one line of printable characters, and short.
func cut(text string, most int) string {
	runes := []rune(printable(text))
	if len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return string(runes)
}
