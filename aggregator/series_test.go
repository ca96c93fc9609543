package aggregator

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestSeries(t *testing.T) {
	s := NewSeries(Gauge, "disk.free", Tag{"path", "/"}, Tag{"host", "a"}, Tag{"path", "/home"}, Tag{"", "no key"}, Tag{"empty", ""})
	if got, want := s.String(), "disk.free{empty:,host:a,path:/home}|gauge"; got != want {
		t.Errorf("String() = %s, want %s", got, want)
	}
	if s != NewSeries(Gauge, "disk.free", Tag{"empty", ""}, Tag{"path", "/home"}, Tag{"host", "a"}) {
		t.Error("the order of tags makes another series")
	}
	for _, other := range []Series{
		NewSeries(Counter, "disk.free", Tag{"path", "/home"}, Tag{"host", "a"}, Tag{"empty", ""}),
		NewSeries(Gauge, "disk.fre", Tag{"path", "/home"}, Tag{"host", "a"}, Tag{"empty", ""}),
		NewSeries(Gauge, "disk.free", Tag{"path", "/home"}, Tag{"host", "a"}),
		NewSeries(Gauge, "disk.free", Tag{"path", "/hom"}, Tag{"ehost", "a"}, Tag{"empty", ""}),
	} {
		if s == other {
			t.Errorf("%s == %s", s, other)
		}
	}
	if got := NewSeries(Set, "x").String(); got != "x|set" {
		t.Errorf("String() = %s, want x|set", got)
	}
}

func TestTagLimits(t *testing.T) {
	long := func(s string, n int) string { return strings.Repeat(s, n) }
	tests := []struct {
		name, key, value   string
		wantKey, wantValue string
		cut                bool
	}{
		{"below", long("k", 63), long("v", 199), long("k", 63), long("v", 199), false},
		{"at", long("k", 64), long("v", 200), long("k", 64), long("v", 200), false},
		{"key above", long("k", 65), "v", long("k", 64), "v", true},
		{"value above", "k", long("v", 201), "k", long("v", 200), true},
		{"two bytes across the limit", "k", long("v", 199) + "ü", "k", long("v", 199), true},
		{"two bytes up to the limit", "k", long("v", 198) + "üx", "k", long("v", 198) + "ü", true},
		{"four bytes across", long("k", 61) + "😀", "v", long("k", 61), "v", true},
		{"four bytes up to", long("k", 60) + "😀x", "v", long("k", 60) + "😀", "v", true},
	}
	for _, tt := range tests {
		k := Key{Kind: Counter}
		k.SetName([]byte("m"))
		if !k.Tag([]byte(tt.key), []byte(tt.value)) {
			t.Errorf("%s: Tag answers false", tt.name)
		}
		for key, value := range k.Series().Tags() {
			if key != tt.wantKey || value != tt.wantValue || !utf8.ValidString(key+value) {
				t.Errorf("%s: tag %q: %q, want %q: %q", tt.name, key, value, tt.wantKey, tt.wantValue)
			}
		}
		if k.Cut != tt.cut {
			t.Errorf("%s: Cut = %v, want %v", tt.name, k.Cut, tt.cut)
		}
	}
	// Keys that are the same once they are cut are the same key.
	k := Key{Kind: Counter}
	k.SetName([]byte("m"))
	k.Tag([]byte(long("k", 64)+"a"), []byte("first"))
	k.Tag([]byte(long("k", 64)+"b"), []byte("last"))
	k.Default(long("k", 64)+"c", "default")
	if got, want := k.Series().String(), "m{"+long("k", 64)+":last}|counter"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestTooManyTags(t *testing.T) {
	k := Key{Kind: Counter}
	k.SetName([]byte("m"))
	for i := range MaxTags {
		if !k.Tag(fmt.Appendf(nil, "k%d", i), []byte("v")) {
			t.Fatalf("tag %d is one too many", i+1)
		}
	}
	if k.Tag([]byte("another"), nil) {
		t.Error("tag 101 is taken")
	}
	if k.Default("another", "") {
		t.Error("tag 101 is taken by Default")
	}
	if !k.Tag([]byte("k7"), []byte("new")) || !k.Tag(nil, []byte("v")) || !k.Default("k8", "default") {
		t.Error("a tag that is already there, or has no key, is one too many")
	}
	s, tags := k.Series(), 0
	for key, value := range s.Tags() {
		if tags++; key == "k7" && value != "new" || key == "k8" && value != "v" {
			t.Errorf("%s is %s", key, value)
		}
	}
	if _, ok := parseSeries(s.Key()); !ok || tags != MaxTags {
		t.Errorf("%d tags, parseSeries answers %v, want %d, true", tags, ok, MaxTags)
	}
}

func TestParseSeries(t *testing.T) {
	tests := map[string]bool{
		"\x01m\x01":                            true,
		"\x01m\x04":                            true,
		"\x01m\x01\x01k\x01v":                  true,
		"\x01m\x01\x01k\x00":                   true,
		"\x01m\x01\x01a\x00\x01b\x00":          true,
		"":                                     false,
		"\x01m":                                false, // no kind
		"\x00\x01":                             false, // no name
		"\x00\x01\x01":                         false,
		"\x05m\x01":                            false, // name too short
		"\x01m\x00":                            false, // no such kind
		"\x01m\x05":                            false, // events are not series
		"\x01m\x01\x00\x01v":                   false, // no tag key
		"\x01m\x01\x01k":                       false, // no tag value
		"\x01m\x01\x01k\x02v":                  false,
		"\x01m\x01\x02k":                       false,
		"\x01m\x01\x01k\x01v\x01":              false,
		"\x01m\x01\x01k\x01v\x01k\x01v":        false, // twice
		"\x01m\x01\x01b\x00\x01a\x00":          false, // not sorted
		"\x01m\x01\x01a\x00\x02aa\x00\x01\x00": false,
	}
	for key, want := range tests {
		if s, got := parseSeries(key); got != want || got && s.Key() != key {
			t.Errorf("parseSeries(%q) = %v, want %v", key, got, want)
		}
	}
}

// Whatever a Key is given, the series is well-formed and says the same.
func TestKeyMakesSeries(t *testing.T) {
	bytesGen := rapid.SliceOfN(rapid.Byte(), 0, 300)
	rapid.Check(t, func(t *rapid.T) {
		k := Key{Kind: Kind(rapid.IntRange(1, 4).Draw(t, "kind"))}
		k.SetName(rapid.SliceOfN(rapid.Byte(), 1, MaxName).Draw(t, "name"))
		for range rapid.IntRange(0, 12).Draw(t, "tags") {
			k.Tag(bytesGen.Draw(t, "key"), bytesGen.Draw(t, "value"))
		}
		s := k.Series()
		again, ok := parseSeries(s.Key())
		if !ok || again.Kind() != k.Kind || again.Name() != string(k.name) {
			t.Fatalf("parseSeries(%q) = %v, %v", s.Key(), again, ok)
		}
		var tags []Tag
		for key, value := range again.Tags() {
			tags = append(tags, Tag{key, value})
		}
		if NewSeries(k.Kind, again.Name(), tags...) != s {
			t.Fatalf("%q put together again is another series", s.Key())
		}
	})
}
