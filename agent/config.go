package main

import (
	"errors"
	"fmt"
	"os"

	"sluice/configs"
)

// loadConfig reads the configuration and refuses what this version cannot do:
// the schema is wider than the program.
func loadConfig(file string) (configs.Config, error) {
	cfg, err := configs.Load(file, os.LookupEnv)
	if err != nil {
		return cfg, err
	}
	var unbuilt []error
	if len(cfg.Listen.Unix) > 0 {
		unbuilt = append(unbuilt, fmt.Errorf("%s: listen.unix: stream sockets are not built yet; use listen.unixgram", cfg.File))
	}
	return cfg, errors.Join(unbuilt...)
}
