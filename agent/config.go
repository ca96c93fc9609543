package main

import (
	"os"

	"sluice/configs"
)

// loadConfig reads the configuration.
func loadConfig(file string) (configs.Config, error) { return configs.Load(file, os.LookupEnv) }
