package listeners

import (
	"slices"
	"testing"
	"time"
)

// A lull is for sockets that are busy, and for no longer than they are.
func TestLullNeedsABusySocket(t *testing.T) {
	var l lull
	now := time.Unix(1_800_000_000, 0).UnixNano()
	second := func(rate, batch int) (busy bool) {
		for range rate / batch {
			now += int64(time.Second) / int64(rate) * int64(batch)
			busy = l.note(batch, now)
		}
		return busy
	}
	for _, c := range []struct {
		rate, batch int
		want        bool
	}{
		{10, 1, false}, {lullRate / 2, 1, false}, {2 * lullRate, 1, true}, {2 * lullRate, 50, true},
		{lullRate / 2, 50, false}, {250_000, 64, true}, {2, 1, false},
	} {
		if got := second(c.rate, c.batch); got != c.want {
			t.Errorf("%d datagrams a second, %d at once: busy = %v, want %v", c.rate, c.batch, got, c.want)
		}
	}
}

// A rest takes its time and no more, and only where it is allowed: not on Unix
// sockets, whose senders would wait.
func TestRest(t *testing.T) {
	for network, open := range transports {
		p, _ := open(t, PacketOptions{Naming: normal})
		in, err := newReceiver(p.conn, p.raw)
		if err != nil {
			t.Fatal(err)
		}
		if udp := network == "udp"; in.lull.allowed != udp && p.granted >= lullBuffer {
			t.Errorf("%s: a rest is allowed: %v, want %v", network, in.lull.allowed, udp)
		}
		in.lull.allowed = true
		now := time.Now().UnixNano()
		for range 256 { // as many a millisecond
			now += int64(time.Microsecond)
			in.lull.note(1, now)
		}
		var took []time.Duration
		for range 21 { // a signal ends one early
			began := time.Now()
			in.rest(1, now)
			took = append(took, time.Since(began))
		}
		if slices.Sort(took); took[10] < lullLength/2 || took[0] > 50*lullLength {
			t.Errorf("%s: rests took %s, want about %s", network, took, lullLength)
		}
		in.close()
		p.Close()
	}
}
