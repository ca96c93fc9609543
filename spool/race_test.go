//go:build race

package spool

// raceEnabled: the tests run under the race detector, and so do their children.
const raceEnabled = true
