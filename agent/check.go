package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"sluice/configs"
)

func newCheck() *cobra.Command {
	var file string
	var quiet bool
	c := &cobra.Command{
		Use:   "check [--config FILE]",
		Short: "Validate the configuration and print what is in effect, without secrets",
		Long: `check reads the configuration the way the daemon does, reports every fault at
once, and prints what is in effect. It opens no socket and touches no spool.`,
		Example: "  sluice check --config /etc/sluice/sluice.yaml",
		Args:    noArgs,
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
			_, err = c.OutOrStdout().Write(configs.Redacted(cfg))
			return err
		},
	}
	configFlag(c, &file)
	c.Flags().BoolVar(&quiet, "quiet", false, "print faults and warnings only")
	return c
}

// configFlag adds --config to a command.
func configFlag(c *cobra.Command, file *string) {
	c.Flags().StringVar(file, "config", "", "configuration `FILE` (default "+configs.DefaultPath+" if it exists)")
}
