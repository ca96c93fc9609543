package aggregator

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"
)

// heap is what is alive, in bytes.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// A counter series with 3 tags takes at most 200 bytes beside its key, with
// everything that is kept of it while it is in use: entry, maps, link and cells; and
// little more when it is alone in its metric.
func TestBytesPerSeries(t *testing.T) {
	t.Run("of one metric", func(t *testing.T) {
		seriesTake(t, "shop.requests,env:prod,route:users_%06d,service:checkout", 200)
	})
	t.Run("each in its own", func(t *testing.T) {
		seriesTake(t, "shop.requests_%06d,env:prod,route:users,service:checkout", 215)
	})
}

func seriesTake(t *testing.T, spell string, most float64) {
	const n = 100_000
	o := defaults()
	o.MaxSeries = 2 * n
	before := heap()
	a := New(o, t0)
	in := a.Intake(plain{})
	keys := 0
	for round := range 3 {
		for i := range n {
			s := sample(Counter, fmt.Sprintf(spell, i), 1)
			put(t, in, t0, s)
			if round == 0 {
				in.key.Reset(s.Kind)
				plain{}.Name(&in.key, &s)
				keys += len(in.key.append(nil))
			}
		}
		if round < 2 {
			for _, w := range a.Rotate(t0) {
				w.Release()
			}
		}
	}
	got := float64(heap()-before-int64(keys)) / n
	t.Logf("%.0f bytes a series beside its key of %d", got, keys/n)
	if got > most {
		t.Errorf("%.0f bytes a series beside its key, want at most %.0f", got, most)
	}
	runtime.KeepAlive(a)
}

// Many series come and go: their memory goes, too.
func TestMemoryReturns(t *testing.T) {
	t.Run("of one metric", func(t *testing.T) { memoryReturns(t, "shop.requests,env:prod,route:users_%06d,service:checkout") })
	t.Run("each in its own", func(t *testing.T) { memoryReturns(t, "shop.requests_%06d,env:prod,route:users,service:checkout") })
}

func memoryReturns(t *testing.T, spell string) {
	n := 200_000
	o := defaults()
	o.MaxSeries = n
	before := heap()
	a := New(o, t0)
	in := a.Intake(plain{})
	for i := range n {
		put(t, in, t0, sample(Counter, fmt.Sprintf(spell, i), 1))
	}
	most := heap() - before
	for range 2*linkWindows + sweepEvery {
		put(t, in, t0, sample(Counter, "busy", 1))
		for _, w := range a.Rotate(t0) {
			w.Release()
		}
	}
	left := heap() - before
	t.Logf("%d series: %.1f MiB, afterwards %.2f MiB", n, float64(most)/(1<<20), float64(left)/(1<<20))
	if left > 1<<20 {
		t.Errorf("%d bytes are kept of %d", left, most)
	}
	if got := a.Stats().Series; got != 1 {
		t.Errorf("%d series are left, want 1", got)
	}
	runtime.KeepAlive(a)
}

// floodOfValues are the worst that can be done to values: each must stay within
// the bound of all.
var floodOfValues = map[string]func(i int, r *rand.Rand) Sample{
	"few values each": func(i int, r *rand.Rand) Sample {
		return sample(Distribution, fmt.Sprintf("d,id:%d", i%4900), r.Float64())
	},
	"latencies": func(i int, r *rand.Rand) Sample {
		return sample(Distribution, fmt.Sprintf("d,id:%d", r.IntN(2000)), math.Exp(3*r.NormFloat64()))
	},
	"wide values": func(i int, r *rand.Rand) Sample {
		v := math.Exp(700 * (2*r.Float64() - 1))
		if r.IntN(2) == 0 {
			v = -v
		}
		return sample(Distribution, fmt.Sprintf("d,id:%d", r.IntN(100)), v)
	},
	"members": func(i int, r *rand.Rand) Sample {
		return member(fmt.Sprintf("s,id:%d", r.IntN(500)), fmt.Sprint("user", i))
	},
	"estimates": func(i int, r *rand.Rand) Sample {
		return member(fmt.Sprintf("s,id:%d", r.IntN(1500)), fmt.Sprint(r.IntN(400)))
	},
	"late values": func(i int, r *rand.Rand) Sample {
		s := sample(Distribution, fmt.Sprintf("d,id:%d", i/300%15), r.Float64())
		s.Time = t0.Add(-time.Duration(1+i%300) * 10 * time.Second).UnixNano()
		return s
	},
}

// Values of all series together stay within their bound; what does not fit is
// refused and counted, and goes again once windows are released. Counters
// are never refused.
func TestMemoryOfValuesIsBounded(t *testing.T) {
	for name, next := range floodOfValues {
		t.Run(name, func(t *testing.T) {
			o := defaults()
			o.MaxSeries, o.MaxSetMembers = 5000, 1000
			if name == "estimates" {
				o.MaxSetMembers = 50
			}
			a := New(o, t0)
			in := a.Intake(plain{})
			r := rand.New(rand.NewPCG(1, 2))
			before := heap()
			refused, taken, pressed := 0, uint64(0), false
			for i := range 1_200_000 {
				s := []Sample{next(i, r)}
				if in.Add(t0.UnixNano(), s); s[0].Refused == TooMuchMemory {
					refused++
				} else if s[0].Refused == Taken {
					taken++
				}
				select {
				case <-a.Pressed():
					pressed = true // and nobody acts on it
				default:
				}
				if refused == 100 {
					break
				}
			}
			used := heap() - before
			s := a.Stats()
			t.Logf("%d taken, %d refused; %.1f MiB, counted as %.1f", taken, refused, float64(used)/(1<<20), float64(s.Memory)/(1<<20))
			if used > s.MemoryLimit*3/2 {
				t.Errorf("%d bytes, limit %d", used, s.MemoryLimit)
			}
			if refused == 0 || !pressed {
				t.Fatalf("refused %d, pressed %v: the flood is too small to test anything", refused, pressed)
			}
			put(t, in, t0, sample(Counter, "c", 1))
			windows := a.Rotate(t0)
			if got := []Sample{sample(Distribution, "d,id:1", 1)}; in.Add(t0.UnixNano(), got) != 1 {
				t.Error("a value is taken while the closed windows are in memory")
			}
			var stored uint64
			for _, w := range windows {
				stored += w.Samples[Distribution] + w.Samples[Set]
				w.Release()
			}
			if stored != taken {
				t.Errorf("%d samples in the windows, %d were taken", stored, taken)
			}
			put(t, in, t0, sample(Distribution, "d,id:1", 1))
			if s := a.Stats(); s.Memory > 1<<20 || a.memory.lent.Load() != 0 {
				t.Errorf("%d bytes are still counted, %d of them lent", s.Memory, a.memory.lent.Load())
			}
		})
	}
}
