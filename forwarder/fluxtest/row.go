package fluxtest

import (
	"slices"
	"strings"
	"time"
)

// A Row is one stored metric.
type Row struct {
	Name    string
	Type    string  // as sent, also where the server itself drops it
	Value   float64 // 0 for a set
	Literal string  // the number as it was written; "" for a set
	Member  string  // a set's member
	Time    time.Time
	Tags    map[string]string // shared, not to be changed; never nil
	Request int               // the call that stored it
	Index   int               // in its batch
	Session string            // of a DataCat

	committed time.Time // by the server's clock
}

// Has reports whether the row has all the tags, each given as "key:value".
func (r Row) Has(tags ...string) bool { return hasTags(r.Tags, tags) }

func hasTags(have map[string]string, tags []string) bool {
	for _, tag := range tags {
		k, v, _ := strings.Cut(tag, ":")
		if got, ok := have[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// key identifies the series: type, name and sorted tags, NUL between them (which no
// valid part contains).
func (r Row) key() string {
	keys := make([]string, 0, len(r.Tags))
	for k := range r.Tags {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	var b strings.Builder
	b.WriteString(r.Type)
	b.WriteByte(0)
	b.WriteString(r.Name)
	for _, k := range keys {
		b.WriteByte(0)
		b.WriteString(k)
		b.WriteByte(0)
		b.WriteString(r.Tags[k])
	}
	return b.String()
}

// An Event is one stored event.
type Event struct {
	Name       string
	Time       time.Time
	Value      *float64 // nil when absent or null
	Properties map[string]any
	Tags       map[string]string
	Fields     map[string]string // user_id, session_id, request_id, environment, service, host
	Request    int
	Index      int
}
