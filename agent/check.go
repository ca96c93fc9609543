package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"sluice/configs"
)

func newCheck() *cobra.Command {
	var file string
	var quiet bool
	var lines []string
	c := &cobra.Command{
		Use:   "check [--config FILE] [--line LINE]...",
		Short: "Validate the configuration and print what is in effect, without secrets",
		Long: `check reads the configuration the way the daemon does, reports every fault at
once, and prints what is in effect. It opens no socket and touches no spool.

With --line it prints instead what the agent would make of a line that a program
sends, rules and tags of the configuration included; --line - reads lines from
standard input. The exit status is 1 if one of them is not taken.`,
		Example: `  sluice check --config /etc/sluice/sluice.yaml
  sluice check --line 'api.requests:1|c|#status:404'`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := loadConfig(file)
			if err != nil {
				return err
			}
			for _, w := range cfg.Warnings {
				fmt.Fprintf(c.ErrOrStderr(), "sluice: warning: %s\n", w)
			}
			if quiet {
				return nil
			}
			if len(lines) > 0 {
				return checkLines(c.OutOrStdout(), c.InOrStdin(), cfg, lines)
			}
			_, err = c.OutOrStdout().Write(configs.Redacted(cfg))
			return err
		},
	}
	configFlag(c, &file)
	c.Flags().BoolVar(&quiet, "quiet", false, "print faults and warnings only")
	c.Flags().StringArrayVar(&lines, "line", nil, "show what becomes of `LINE`; may be repeated; - is standard input")
	return c
}

// configFlag adds --config to a command.
func configFlag(c *cobra.Command, file *string) {
	c.Flags().StringVar(file, "config", "", "configuration `FILE` (default "+configs.DefaultPath+" if it exists)")
}
