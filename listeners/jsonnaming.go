package listeners

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"

	"github.com/go-faster/jx"

	"sluice/aggregator"
)

// jsonNaming is how the HTTP dialects write names and tags. A sample's Head is the
// name itself, which is not rewritten the way names in lines are; its Tags are
// the bytes of a JSON object, or of an array of "key:value" strings. It
// implements aggregator.Spelling.
type jsonNaming struct {
	rules *Rules
}

var _ aggregator.Spelling = (*jsonNaming)(nil)

// Name implements aggregator.Spelling.
func (n *jsonNaming) Name(dst *aggregator.Key, s *aggregator.Sample) aggregator.Reason {
	dst.SetName(s.Head)
	if !setTags(dst, s.Tags) {
		return aggregator.TooManyTags
	}
	return n.rules.Apply(dst)
}

// setTags puts the tags in raw into dst. It answers false when they are too many.
func setTags(dst *aggregator.Key, raw []byte) bool {
	return eachTag(raw, func(key, value []byte) bool {
		var k [aggregator.MaxTagKey + utf8.UTFMax]byte
		var v [aggregator.MaxTagValue + utf8.UTFMax]byte
		return dst.Tag(clean(k[:0], key, aggregator.MaxTagKey), clean(v[:0], value, aggregator.MaxTagValue))
	})
}

// eachTag yields the tags in raw, which was checked, until yield answers false,
// and then answers false, too. The values of an object become text: numbers and
// truth values as they are written, null is empty, and what is nested is its
// compact JSON.
func eachTag(raw []byte, yield func(key, value []byte) bool) (more bool) {
	more = true
	if len(raw) == 0 {
		return true
	}
	d := jx.DecodeBytes(raw)
	if raw[0] == '[' {
		d.Arr(func(d *jx.Decoder) error {
			element, err := d.StrAppend(nil)
			if key, value, ok := splitTag(element, ':'); ok && more {
				more = yield(key, value)
			}
			return err
		})
		return more
	}
	d.ObjBytes(func(d *jx.Decoder, key []byte) error {
		value, err := tagValue(d)
		if len(key) > 0 && more {
			more = yield(key, value)
		}
		return err
	})
	return more
}

func tagValue(d *jx.Decoder) ([]byte, error) {
	switch d.Next() {
	case jx.String:
		return d.StrAppend(nil)
	case jx.Null:
		return nil, d.Skip()
	case jx.Object, jx.Array:
		raw, err := d.Raw()
		var compact bytes.Buffer
		if err == nil {
			err = json.Compact(&compact, raw)
		}
		return compact.Bytes(), err
	}
	return d.Raw()
}
