package fluxtest

import (
	"encoding/json"
	"maps"
	"slices"
	"testing"
)

// FuzzMembers compares the splitter with encoding/json on whatever is valid JSON.
func FuzzMembers(f *testing.F) {
	for _, seed := range []string{`{}`, ` { "a" : 1 , "b":[{"c":"}"},2],"a":null} `, `{"x\"y":"\\","\u0061":true,"a":-1e3}`, `[]`, `1`, `{"":{"":{}}}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		if !json.Valid([]byte(in)) {
			return
		}
		got, again, err := members([]byte(in))
		var want map[string]json.RawMessage
		if json.Unmarshal([]byte(in), &want) != nil || want == nil {
			if err == nil {
				t.Errorf("members(%s) = %v, want an error", in, got)
			}
			return
		}
		if err != nil || !maps.EqualFunc(got, want, func(a, b json.RawMessage) bool { return string(a) == string(b) }) {
			t.Errorf("members(%s) = %s, %v, want %s", in, got, err, want)
		}
		for _, k := range again {
			if _, ok := got[k]; !ok {
				t.Errorf("members(%s) repeats %q, which is not there", in, k)
			}
		}
	})
}

func TestMembersAgain(t *testing.T) {
	_, again, err := members([]byte(`{"a":1,"b":2,"a":3,"\u0061":4}`))
	if want := []string{"a", "a"}; !slices.Equal(again, want) || err != nil {
		t.Errorf("again = %v, %v, want %v", again, err, want)
	}
}
