package main

import (
	"fmt"
	"maps"
	"os"
	"slices"

	"sluice/aggregator"
	"sluice/configs"
	"sluice/listeners"
)

// ruleSet is what the configuration does to every series.
func ruleSet(c configs.Aggregate) (*listeners.RuleSet, error) {
	tags := sortedTags(c.Tags)
	host := c.Hostname
	if host == configs.HostnameAuto {
		var err error
		if host, err = os.Hostname(); err != nil {
			return nil, fmt.Errorf("aggregate.hostname: auto: %w (write the name instead)", err)
		}
	}
	if host != "" {
		tags = append(tags, aggregator.Tag{Key: "host", Value: host})
	}
	return listeners.NewRuleSet(rules(c.Rules), tags), nil
}

func rules(list []configs.Rule) (all []listeners.Rule) {
	for _, c := range list {
		r := listeners.Rule{Match: c.Match, Drop: c.Drop, Remove: c.DropTags, Add: sortedTags(c.AddTags), Name: c.Name}
		for _, k := range kinds {
			if slices.Contains(c.Kinds, k.String()) {
				r.Kinds = append(r.Kinds, k)
			}
		}
		for _, class := range c.Classes {
			r.Class = append(r.Class, listeners.Class{Tag: class.Tag, As: class.As, Values: class.Values})
		}
		for _, t := range sortedTags(c.RenameTags) {
			r.Rename = append(r.Rename, listeners.Rename{From: t.Key, To: t.Value})
		}
		all = append(all, r)
	}
	return all
}

func sortedTags(from map[string]string) (tags []aggregator.Tag) {
	for _, k := range slices.Sorted(maps.Keys(from)) {
		tags = append(tags, aggregator.Tag{Key: k, Value: from[k]})
	}
	return tags
}
