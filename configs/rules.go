package configs

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
)

// rules checks aggregate.rules.
func (k *checker) rules(list []Rule) {
	for i := range list[:min(len(list), maxEntries)] {
		k.rule(fmt.Sprintf("aggregate.rules[%d]", i), &list[i])
	}
}

func (k *checker) rule(path string, r *Rule) {
	k.glob(path+".match", r.Match)
	does := r.Name != "" || len(r.AddTags)+len(r.RenameTags)+len(r.DropTags)+len(r.Classes) > 0
	switch {
	case r.Drop && does:
		k.add(path+".drop", "nothing is left of what is dropped; take out drop, or all the rule does beside")
	case !r.Drop && !does:
		k.add(path, "the rule does nothing; give it name, add_tags, rename_tags, drop_tags, classes, or drop: true")
	}
	captures := strings.Count(r.Match, "*")
	k.name(path+".name", r.Name, captures)
	for _, key := range slices.Sorted(maps.Keys(r.AddTags)) {
		at := joinKey(path+".add_tags", key)
		k.text(at, r.AddTags[key], "")
		k.tagKey(at, key)
		k.tagValue(at, r.AddTags[key])
		k.template(at, r.AddTags[key], captures)
	}
	k.renames(path+".rename_tags", r.RenameTags)
	for i, glob := range r.DropTags {
		k.glob(fmt.Sprintf("%s.drop_tags[%d]", path, i), glob)
	}
	for i := range r.Classes {
		k.class(fmt.Sprintf("%s.classes[%d]", path, i), &r.Classes[i])
	}
}

// glob checks a pattern for names, keys or values.
func (k *checker) glob(path, glob string) {
	if glob == "" || len(glob) > maxGlob {
		k.add(path, "%s has %d bytes, not 1 to %d; write a text in which * stands for any text and ? for any character", k.show(path, glob), len(glob), maxGlob)
	}
}

// name checks the new name of a rule. What captures make of it is seen when
// they are known.
func (k *checker) name(path, name string, captures int) {
	k.template(path, name, captures)
	switch {
	case len(name) > maxGlob:
		k.add(path, "%s has %d bytes, over the limit of %d; shorten it", k.show(path, name), len(name), maxGlob)
	case strings.HasPrefix(name, "sluice."):
		k.add(path, "names that start with sluice. are the agent's own; write another one")
	case strings.ContainsFunc(name, func(r rune) bool { return r == ' ' || r == '/' || unicode.IsControl(r) }):
		k.add(path, "%s has spaces, slashes or control characters, which names do not; take them out", k.show(path, name))
	}
}

// template checks that each $n has its *.
func (k *checker) template(path, text string, captures int) {
	for rest := text; ; {
		_, after, found := strings.Cut(rest, "$")
		switch {
		case !found:
			return
		case strings.HasPrefix(after, "$"):
			rest = after[1:]
			continue
		case after == "" || after[0] < '1' || after[0] > '9':
			k.add(path, "%s has a $ without a digit; write $1 to $9 for what the stars of match stand for, or $$ for the character itself", k.show(path, text))
			return
		case int(after[0]-'0') > captures:
			k.add(path, "%s asks for what * number %c stands for, but match has %d; count again", k.show(path, text), after[0], captures)
			return
		}
		rest = after[1:]
	}
}

// renames checks that what comes out does not depend on an order.
func (k *checker) renames(path string, renames map[string]string) {
	from := map[string]string{}
	for _, old := range slices.Sorted(maps.Keys(renames)) {
		key, at := renames[old], joinKey(path, old)
		k.tagKey(at, old)
		k.tagKey(at, key)
		if other, taken := from[key]; taken {
			k.add(at, "%s is what %s becomes already; give each its own", k.show(at, key), quote(other))
		}
		if _, renamed := renames[key]; renamed {
			k.add(at, "%s is renamed itself; use two rules", k.show(at, key))
		}
		from[key] = old
	}
}

func (k *checker) class(path string, c *Class) {
	k.tagKey(path+".tag", c.Tag)
	k.tagValue(path+".as", c.As)
	if c.As == "" {
		k.add(path+".as", "has no value; write the one that stands for the others")
	}
	if len(c.Values) == 0 {
		k.add(path+".values", "has no value; list those that become %q, like [\"2??\"]", c.As)
	}
	for i, glob := range c.Values {
		k.glob(fmt.Sprintf("%s.values[%d]", path, i), glob)
	}
}
