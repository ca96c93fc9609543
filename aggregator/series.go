package aggregator

import (
	"bytes"
	"iter"
	"slices"
	"strings"
)

// Limits of a series' identity, in bytes after normalisation. Each length
// fits into one byte of a key. 255 and 64/200 are the upstream's and
// Datadog's limits; 100 tags is ours.
const (
	MaxName     = 255
	MaxTagKey   = 64
	MaxTagValue = 200
	MaxTags     = 100
)

// A Tag is one key and its value.
type Tag struct{ Key, Value string }

// A Series is what a sequence of values is about: kind, name and tags. It
// owns its bytes: one string, the key, which orders series by name (shorter
// names first), then kind, then tags:
//
//	len(name) name kind { len(key) key len(value) value }...
//
// Lengths are one byte each; tags are sorted by key, and each key occurs once.
// The zero Series is not valid. Series are comparable with ==.
type Series struct{ key string }

// Key returns the series' identity in its binary form.
func (s Series) Key() string { return s.key }

// Name returns the metric's name, 1 to MaxName bytes.
func (s Series) Name() string { return s.key[1 : 1+int(s.key[0])] }

// Kind returns the series' kind.
func (s Series) Kind() Kind { return Kind(s.key[1+int(s.key[0])]) }

// metric returns the part of the key that tells name and kind.
func (s Series) metric() string { return s.key[:2+int(s.key[0])] }

// Tags yields the tags, sorted by key.
func (s Series) Tags() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for rest := s.key[2+int(s.key[0]):]; len(rest) > 0; {
			n := int(rest[0])
			k := rest[1 : 1+n]
			rest = rest[1+n:]
			n = int(rest[0])
			v := rest[1 : 1+n]
			rest = rest[1+n:]
			if !yield(k, v) {
				return
			}
		}
	}
}

// cut returns the series with its first n tags. Its key is the beginning of the
// longer one's.
func (s Series) cut(n int) Series {
	at := 2 + int(s.key[0])
	for ; n > 0 && at < len(s.key); n-- {
		at += 1 + int(s.key[at])
		at += 1 + int(s.key[at])
	}
	return Series{s.key[:at]}
}

// String writes the series as name{key:value,...}|kind, for logs and tests.
func (s Series) String() string {
	var b strings.Builder
	b.WriteString(s.Name())
	sep := byte('{')
	for k, v := range s.Tags() {
		b.WriteByte(sep)
		b.WriteString(k)
		b.WriteByte(':')
		b.WriteString(v)
		sep = ','
	}
	if sep == ',' {
		b.WriteByte('}')
	}
	b.WriteByte('|')
	b.WriteString(s.Kind().String())
	return b.String()
}

// NewSeries makes a series from parts that are within the limits above.
func NewSeries(kind Kind, name string, tags ...Tag) Series {
	k := Key{Kind: kind}
	k.SetName([]byte(name))
	for _, t := range tags {
		k.Tag([]byte(t.Key), []byte(t.Value))
	}
	return Series{string(k.append(nil))}
}

// parseSeries checks that key is a well-formed identity.
func parseSeries(key string) (Series, bool) {
	if len(key) < 3 || key[0] == 0 || len(key) < 2+int(key[0]) {
		return Series{}, false
	}
	if k := Kind(key[1+int(key[0])]); k < Counter || k > Set {
		return Series{}, false
	}
	return Series{key}, validTags(key[2+int(key[0]):])
}

// validTags checks tags as they stand in a key.
func validTags(rest string) bool {
	for last := ""; len(rest) > 0; {
		var part [2]string
		for i := range part {
			if len(rest) == 0 || len(rest) < 1+int(rest[0]) {
				return false
			}
			n := 1 + int(rest[0])
			part[i], rest = rest[1:n], rest[n:]
		}
		if part[0] <= last { // no key is empty
			return false
		}
		last = part[0]
	}
	return true
}

// A Key is scratch space in which a Spelling puts a series together. It copies
// what it is given and owns the copy; it is reused for the next spelling.
type Key struct {
	Kind Kind
	// Cut is set when a tag's key or value was cut to its limit.
	Cut bool

	name []byte
	tags []span
	text []byte // what tags point into
}

// span is one tag: text[key:mid] and text[mid:end].
type span struct{ key, mid, end int }

// Reset empties the key for a series of that kind, or for the tags of an event.
func (k *Key) Reset(kind Kind) {
	k.Kind, k.Cut = kind, false
	k.name, k.tags, k.text = k.name[:0], k.tags[:0], k.text[:0]
}

// SetName replaces the name.
func (k *Key) SetName(name []byte) { k.name = append(k.name[:0], name...) }

// Name returns the name, which the Key goes on owning.
func (k *Key) Name() []byte { return k.name }

// Value returns the value of a tag, which the Key goes on owning.
func (k *Key) Value(key string) (value []byte, ok bool) {
	at := k.find([]byte(key))
	if at < 0 {
		return nil, false
	}
	return k.text[k.tags[at].mid:k.tags[at].end], true
}

// Remove takes away the tags whose key is what the glob says.
func (k *Key) Remove(glob string) {
	k.tags = slices.DeleteFunc(k.tags, func(s span) bool { return Match(glob, string(k.text[s.key:s.mid])) })
}

// RemoveKey takes away the tag of one key, if there is one.
func (k *Key) RemoveKey(key string) {
	if at := k.find([]byte(key)); at >= 0 {
		k.tags = slices.Delete(k.tags, at, at+1)
	}
}

// check answers why there cannot be a series of that name.
func (k *Key) check() Reason {
	switch {
	case len(k.name) == 0:
		return BadName
	case len(k.name) > MaxName:
		return NameTooLong
	}
	return Taken
}

// Tag sets a tag; the last value of a key wins. An empty key is passed over.
// Key and value longer than their limits are cut there, not inside a character
// of UTF-8, and Cut is set. It answers false when key would be one too many.
func (k *Key) Tag(key, value []byte) bool {
	key, value = k.cut(key, MaxTagKey), k.cut(value, MaxTagValue)
	if len(key) == 0 {
		return true
	}
	at := k.find(key)
	if at < 0 && len(k.tags) == MaxTags {
		return false
	}
	s := span{key: len(k.text)}
	k.text = append(k.text, key...)
	s.mid = len(k.text)
	k.text = append(k.text, value...)
	s.end = len(k.text)
	if at >= 0 {
		k.tags[at] = s
	} else {
		k.tags = append(k.tags, s)
	}
	return true
}

// Default sets a tag unless its key is already there, within the same limits as Tag.
func (k *Key) Default(key, value string) bool {
	if k.find(k.cut([]byte(key), MaxTagKey)) >= 0 {
		return true
	}
	return k.Tag([]byte(key), []byte(value))
}

func (k *Key) find(key []byte) int {
	for i, s := range k.tags {
		if string(k.text[s.key:s.mid]) == string(key) {
			return i
		}
	}
	return -1
}

func (k *Key) cut(b []byte, limit int) []byte {
	if len(b) <= limit {
		return b
	}
	k.Cut = true
	for limit > 0 && b[limit]&0xC0 == 0x80 { // a continuation byte: its character began before
		limit--
	}
	return b[:limit]
}

// append adds the binary form of the series to dst; it sorts the tags.
func (k *Key) append(dst []byte) []byte {
	dst = append(dst, byte(len(k.name)))
	dst = append(dst, k.name...)
	dst = append(dst, byte(k.Kind))
	return k.AppendTags(dst)
}

// AppendTags adds the tags to dst in their binary form, sorted by key: what
// Event.Tags holds.
func (k *Key) AppendTags(dst []byte) []byte {
	slices.SortFunc(k.tags, func(a, b span) int {
		return bytes.Compare(k.text[a.key:a.mid], k.text[b.key:b.mid])
	})
	for _, s := range k.tags {
		dst = append(dst, byte(s.mid-s.key))
		dst = append(dst, k.text[s.key:s.mid]...)
		dst = append(dst, byte(s.end-s.mid))
		dst = append(dst, k.text[s.mid:s.end]...)
	}
	return dst
}

// Series returns the series that has been put together.
func (k *Key) Series() Series { return Series{string(k.append(nil))} }
