package configs

import (
	"fmt"
	"io"
	"log/slog"
)

// Secret is a text that must not be shown. Formatted, logged or encoded it
// comes out as ***, or as nothing when it is empty; only Reveal gives the text.
//
// Three ways around that cannot be closed for a type made of a string: the
// wrong verbs %p and %w, where fmt asks no method (go vet reports both), and a
// Secret as the key of a map in encoding/json.
type Secret string

const mask = "***"

// Reveal returns the text itself.
func (s Secret) Reveal() string { return string(s) }

func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return mask
}

// GoString covers %#v where Format is not asked, in text/template for example.
func (s Secret) GoString() string { return s.String() }

// Format covers every verb, also those that would bypass String (%x, %d, %q).
func (s Secret) Format(f fmt.State, _ rune) { io.WriteString(f, s.String()) }

// MarshalText also covers encoding/json.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalYAML is asked before MarshalText by yaml encoders.
func (s Secret) MarshalYAML() (any, error) { return s.String(), nil }

// LogValue is asked by log/slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }
