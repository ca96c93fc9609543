//go:build race

package forwarder

// raceEnabled: the tests run under the race detector.
const raceEnabled = true
