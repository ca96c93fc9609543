package origin

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"sluice/aggregator"
)

// maxMap bounds the map file, in bytes: 5,000 containers of 200.
const maxMap = 1 << 20

// readMap reads the map file if it is another one than state says. Without news the
// map is nil.
func readMap(file string, state os.FileInfo) (map[string][]aggregator.Tag, os.FileInfo, error) {
	if file == "" {
		return nil, nil, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, state, err
	}
	defer f.Close()
	now, err := f.Stat()
	if err != nil {
		return nil, state, err
	}
	if state != nil && os.SameFile(state, now) && state.ModTime().Equal(now.ModTime()) && state.Size() == now.Size() {
		return nil, state, nil
	}
	text, err := io.ReadAll(io.LimitReader(f, maxMap+1))
	if err != nil {
		return nil, state, err
	}
	mapped, err := parseMap(text)
	if err != nil {
		return nil, state, fmt.Errorf("%s: %w", file, err)
	}
	return mapped, now, nil
}

// parseMap reads lines of an id and tags, with white space between:
//
//	# containers by id, or at least its first 12 digits; pods by uid
//	3f4ca8f0c0de  container:web,image:nginx
//
// Empty lines and those that begin with # are passed over.
func parseMap(text []byte) (map[string][]aggregator.Tag, error) {
	if len(text) > maxMap {
		return nil, fmt.Errorf("over the limit of %d bytes", maxMap)
	}
	mapped := map[string][]aggregator.Tag{}
	number := 0
	for line := range bytes.Lines(text) {
		number++
		fields := strings.Fields(string(line))
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		id := fields[0]
		if !isUID(id) && (!isHex(id) || len(id) < 12 || len(id) > 64) && containerID(id) == "" {
			return nil, fmt.Errorf("line %d: %q is neither a container's id, at least its first 12 digits, nor a pod's uid", number, cut(id))
		}
		if len(id) < 64 && isHex(id) && len(id) != 32 {
			id = id[:12]
		}
		if _, twice := mapped[id]; twice {
			return nil, fmt.Errorf("line %d: %s stands there twice", number, id)
		}
		tags, err := parseTags(strings.Join(fields[1:], " "))
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		mapped[id] = tags
	}
	return mapped, nil
}

// maxTags is how many tags a line of the map file may have.
const maxTags = 20

// parseTags reads key:value pairs with commas between.
func parseTags(text string) (tags []aggregator.Tag, err error) {
	for part := range strings.SplitSeq(text, ",") {
		key, value, ok := strings.Cut(strings.TrimSpace(part), ":")
		switch {
		case !ok || key == "" || value == "":
			return nil, fmt.Errorf("%q is no tag; write key:value, with commas between", cut(part))
		case len(key) > aggregator.MaxTagKey || len(value) > aggregator.MaxTagValue:
			return nil, fmt.Errorf("the tag %q is longer than %d bytes before the colon or %d behind it", cut(part), aggregator.MaxTagKey, aggregator.MaxTagValue)
		case !utf8.ValidString(part) || strings.ContainsFunc(part, unicode.IsControl):
			return nil, fmt.Errorf("the tag %q has bytes that are no text", cut(part))
		}
		if tags = append(tags, aggregator.Tag{Key: key, Value: value}); len(tags) > maxTags {
			return nil, fmt.Errorf("over the limit of %d tags", maxTags)
		}
	}
	return tags, nil
}

// cut shortens what somebody else has written.
func cut(s string) string { return s[:min(len(s), 64)] }

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
