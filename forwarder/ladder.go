package forwarder

import "time"

// A Step is a rung of the ladder as it is told to people: what one item stands
// for, the most points of a distribution, whether large sets go out as their number,
// and whether of a distribution's scalars only count and sum do.
type Step struct {
	Width       time.Duration
	Points      int
	Unique, Few bool
}

// Ladder lists the steps from fine to coarse that an upstream's plan chooses from.
func Ladder(interval time.Duration, points int) (steps []Step) {
	for _, r := range ladder(interval, points) {
		steps = append(steps, Step{r.width, r.points, r.unique, r.few})
	}
	return steps
}
