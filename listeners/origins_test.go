package listeners

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"sluice/aggregator"
)

// known are origins of a few claims, and of the process 7.
type known struct {
	off   bool
	asked []string
}

var knownTags = []string{"", "pod:a", "pod:b", "pod:kernel"}

func (k *known) On() bool { return !k.off }

func (k *known) Process(pid int32, _ int64) uint32 {
	if pid == 7 && !k.off {
		return 3
	}
	return 0
}

func (k *known) Claim(claim []byte, _ int64) uint32 {
	k.asked = append(k.asked, string(claim))
	return uint32(1 + slices.Index([]string{"a", "b"}, string(claim)))
}

func (k *known) Tags(origin uint32) []aggregator.Tag {
	key, value, _ := strings.Cut(knownTags[origin], ":")
	return []aggregator.Tag{{Key: key, Value: value}}
}

// What the kernel says goes before what a line does, and tags of the sender's own
// before both. Packed values share an origin.
func TestOrigins(t *testing.T) {
	for _, c := range []struct {
		pid         int32
		lines, want string
		asked       int
	}{
		{0, "m:1|c", "m", 0},
		{0, "m:1|c|c:a", "m pod:a", 1},
		{0, "m:1|c|c:x", "m", 1},
		{0, "m:1|c|e:b|#k:v", "m k:v pod:b", 1},
		{0, "m:1|c|c:x|e:b", "m pod:b", 2},
		{0, "m:1|c|c:a|e:b", "m pod:a", 1},
		{0, "m:1|c|c:", "m", 0},
		{0, "m:1|c|#dd.internal.entity_id:b,k:v", "m k:v pod:b", 1},
		{0, "m:1|c|#dd.internal.entity_id:b|c:a", "m pod:a", 1},
		{0, "m:1|c|c:a|#pod:own", "m pod:own", 1},
		{0, "m:1:2|ms|c:a\nm:1|g|c:a\nn:x|s|c:b", "m pod:a;m pod:a;m pod:a;n pod:b", 2},
		{7, "m:1|c", "m pod:kernel", 0},
		{7, "m:1|c|c:a", "m pod:kernel", 0},
		{7, "m:1|c|#pod:own", "m pod:own", 0},
		{7, "m:1|c|#dd.internal.entity_id:b", "m pod:kernel", 0},
		{8, "m:1|c|c:a", "m pod:a", 1},
	} {
		k := new(known)
		naming := Naming{TagsInNames: true, Origins: k}
		f := feed{parser: NewParser(&naming), sink: &recorder{spelling: &naming}}
		f.parser.From(c.pid, 1)
		f.take(1, []byte(c.lines), false)
		var got []string
		for _, h := range f.sink.(*recorder).samples {
			text := h.series.Name()
			for key, value := range h.series.Tags() {
				text += " " + key + ":" + value
			}
			got = append(got, text)
		}
		if strings.Join(got, ";") != c.want || len(k.asked) != c.asked {
			t.Errorf("%q of process %d = %q with the questions %q, want %s with %d", c.lines, c.pid, got, k.asked, c.want, c.asked)
		}

		// Off, none is asked for.
		k.asked, k.off = nil, true
		f.parser.From(c.pid, 1)
		f.take(1, []byte(c.lines), false)
		for _, h := range f.sink.(*recorder).samples[len(got):] {
			for key, value := range h.series.Tags() {
				if key == "pod" && value != "own" {
					t.Errorf("%q has the pod %s while origins are off", c.lines, value)
				}
			}
		}
		if len(k.asked) > 0 {
			t.Errorf("%q is asked for while origins are off", k.asked)
		}
	}
}

func TestOriginsOfEvents(t *testing.T) {
	for pid, want := range map[int32]string{0: "pod:a", 7: "pod:kernel"} {
		naming := Naming{Origins: new(known)}
		p := NewParser(&naming)
		p.From(pid, 1)
		p.Start([]byte("_e{1,1}:t|x|c:a\n_sc|n|0|c:a\n_e{1,1}:t|x|#dd.internal.entity_id:a"), false)
		p.Next()
		for _, e := range p.Events() {
			if got := string(e.Tag("pod")); "pod:"+got != want {
				t.Errorf("of process %d: an event with the pod %q, want %s", pid, got, want)
			}
		}
		if len(p.Events()) != 3 {
			t.Error(fmt.Sprint(len(p.Events())), "events, want 3")
		}
	}
}
