package configs

import (
	"fmt"
	"regexp"
	"strings"
)

// Lookup finds an environment variable, like os.LookupEnv.
type Lookup = func(name string) (value string, ok bool)

var variable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// expand replaces ${NAME} by the variable's value, once: what a value
// contains is not expanded again. $${ stands for ${ itself; every other $ is
// an ordinary character, so that passwords need no care.
func expand(text string, lookup Lookup) (value string, expanded bool, err error) {
	var b strings.Builder
	for {
		i := strings.Index(text, "${")
		if i < 0 {
			b.WriteString(text)
			return b.String(), expanded, nil
		}
		if i > 0 && text[i-1] == '$' {
			b.WriteString(text[:i-1] + "${")
			text = text[i+2:]
			continue
		}
		name, rest, closed := strings.Cut(text[i+2:], "}")
		if !closed {
			return "", false, fmt.Errorf("has a ${ without its }; write $${ for the characters themselves")
		}
		if !variable.MatchString(name) {
			return "", false, fmt.Errorf("names the variable %s, which cannot be a variable's name; write ${NAME}, or $${ for the characters themselves", quote(name))
		}
		v, ok := lookup(name)
		if !ok {
			return "", false, fmt.Errorf("names the variable %s, which is not set; set it, or write the value here", name)
		}
		b.WriteString(text[:i] + v)
		text, expanded = rest, true
	}
}

// escape is the inverse of expand for a text without variables.
func escape(text string) string { return strings.ReplaceAll(text, "${", "$${") }
