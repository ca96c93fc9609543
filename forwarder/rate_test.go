package forwarder

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"sluice/forwarder/fluxtest"
)

// The law of the rate, over days: whatever the load, the restarts, clean or not, and
// the outages, no 60 s have an 11th request; the fake fails the test for one. The
// seed is printed. SLUICE_RATE_HOURS makes it longer: 2400 are 100 days.
func TestRateLawForDays(t *testing.T) {
	hours := 4
	if text := os.Getenv("SLUICE_RATE_HOURS"); text != "" {
		var err error
		if hours, err = strconv.Atoi(text); err != nil || hours < 1 {
			t.Fatalf("SLUICE_RATE_HOURS = %q, want a number of hours", text)
		}
	}
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("SLUICE_SEED"); text != "" {
		seed, _ = strconv.ParseUint(text, 10, 64)
	}
	random := rand.New(rand.NewPCG(seed, 1))
	o := testOptions()
	o.ItemsPerRequest = 21 // small batches, so that all of the budget is used
	o.Spread = interval / 2
	simulate(t, o, fluxtest.Options{KeepRows: 1000}, func(t *testing.T, r *rig) {
		t.Logf("seed %d, %d hours", seed, hours)
		names, restarts, crashes, outages := 1, 0, 0, 0
		want := int64(0)
		resume := time.Time{}
		end := time.Now().Add(time.Duration(hours) * time.Hour)
		for window := 0; time.Now().Before(end); window++ {
			if window%60 == 0 {
				names = 1 + random.IntN(60) // from idle to more than fits
			}
			for i := range names {
				r.count(time.Now(), "c", fmt.Sprint("id:", i), 1)
			}
			want += int64(names)
			r.run(time.Duration(random.Int64N(int64(interval))))
			switch random.IntN(200) {
			case 0:
				r.restart()
				restarts++
			case 1:
				r.crash()
				crashes++
			case 2:
				if resume.IsZero() {
					r.flux.Pause()
					resume = time.Now().Add(time.Duration(random.Int64N(int64(20 * time.Minute))))
					outages++
				}
			}
			if !resume.IsZero() && time.Now().After(resume) {
				resume = time.Time{}
				if err := r.flux.Resume(); err != nil {
					t.Fatal(err)
				}
			}
			r.next()
		}
		if err := r.flux.Resume(); err != nil {
			t.Fatal(err)
		}
		r.run(2 * time.Hour)
		r.settled()
		if got, _ := r.flux.CounterTotal("c").Whole(); got.Int64() != want {
			t.Errorf("total = %v, want %d", got, want)
		}
		if got := r.flux.MaxRequestsIn(time.Minute); got != 10 {
			t.Errorf("at most %d requests in 60 s, want 10: the law must be met at its limit", got)
		}
		t.Logf("%d requests, at most %d in any 60 s; %d restarts, %d crashes, %d outages",
			len(r.flux.Requests()), r.flux.MaxRequestsIn(time.Minute), restarts, crashes, outages)
	})
}
