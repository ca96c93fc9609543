// Command sluice is a local metrics agent: programs on a host send it
// measurements, it turns them into one small window per interval, keeps every
// window on disk until it has been delivered, and spends the upstream's request
// budget as well as it can be spent.
//
// This package wires the others together. run.go starts and stops everything;
// each other command has a file of its own.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit statuses, as documented in docs/operations.md.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	os.Exit(execute(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// execute runs one command line and returns its exit status.
func execute(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(stderr, "sluice: %s\n", strings.TrimRight(line, "\n"))
	}
	if errors.As(err, new(usageError)) || strings.HasPrefix(err.Error(), "unknown command") {
		return exitUsage
	}
	return exitFailed
}

// A usageError is a command line that makes no sense.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func newRoot() *cobra.Command {
	run := newRun()
	root := &cobra.Command{
		Use:   "sluice [run] [--config FILE]",
		Short: "sluice takes metrics from the programs of this host and delivers them to Flux",
		Long: `sluice takes metrics from the programs of this host (statsd and DogStatsD over
UDP and Unix sockets), aggregates them, keeps every closed window on disk until
it is delivered, and forwards batches to the Flux metrics API.

Without a configuration it listens on UDP 127.0.0.1:8125 and HTTP 127.0.0.1:8127.
With FLUX_API_KEY in the environment it delivers to Flux.`,
		Example: `  sluice                                      run with the defaults
  sluice run --config /etc/sluice/sluice.yaml
  sluice send counter api.requests 1 -t route:/users
  curl -s http://127.0.0.1:8127/api/agent/status`,
		Args:          noArgs,
		RunE:          run.RunE,
		SilenceErrors: true, // execute prints them, in one line
		SilenceUsage:  true,
	}
	root.Flags().AddFlagSet(run.Flags())
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usagef("%w (see %s --help)", err, c.CommandPath())
	})
	root.SuggestionsMinimumDistance = 2 // letters that may differ; cobra's own default, which it sets too late for noArgs
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetHelpCommand(&cobra.Command{Hidden: true, Use: "no-help"})
	root.AddCommand(run, newCheck(), newSend(), newSpool(), newStatus(), newTail(), newCapture(), newReplay(), newTop(), newPlan(), newDoctor(), newPrepareDir(), newVersion())
	return root
}

// completes tells the shell which words a flag takes; cobra's own fallback are files.
func completes(c *cobra.Command, flag string, words ...string) {
	c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)) // fails for an unknown flag, which a test would see
}

// noArgs refuses arguments; on the root command one is a command mistyped.
func noArgs(c *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return nil
	case c.HasParent():
		return usagef("%s takes no argument, but got %q (see %s --help)", c.CommandPath(), args[0], c.CommandPath())
	}
	hint := "see sluice --help"
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		hint = fmt.Sprintf("did you mean %q?", near[0])
	}
	return usagef("unknown command %q (%s)", args[0], hint)
}
