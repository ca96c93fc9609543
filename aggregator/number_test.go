package aggregator

import (
	"math"
	"math/big"
	"testing"

	"pgregory.net/rapid"
)

func TestNumber(t *testing.T) {
	const huge = math.MaxInt64
	tests := map[string]struct {
		add  []any // int64 and float64
		json string
	}{
		"nothing":                     {nil, "0"},
		"minus zero":                  {[]any{math.Copysign(0, -1)}, "0"},
		"beyond float64":              {[]any{float64(1 << 53), int64(1)}, "9007199254740993"},
		"2^53+1 as one int":           {[]any{int64(1<<53 + 1)}, "9007199254740993"},
		"greatest int":                {[]any{int64(huge)}, "9223372036854775807"},
		"one more":                    {[]any{int64(huge), int64(1)}, "9223372036854775808"},
		"least int":                   {[]any{int64(math.MinInt64)}, "-9223372036854775808"},
		"one less":                    {[]any{int64(math.MinInt64), int64(-1)}, "-9223372036854775809"},
		"there and back":              {[]any{int64(huge), int64(huge), int64(huge), int64(-huge), int64(-huge), int64(-huge)}, "0"},
		"three times":                 {[]any{int64(huge), int64(huge), int64(huge)}, "27670116110564327421"},
		"fractions":                   {[]any{0.1, 0.2, 0.3, -0.6}, "2.7755575615628914e-17"}, // what the decimals' nearest floats add up to
		"fractions that make a whole": {[]any{0.5, 1.5}, "2"},
		"mixed":                       {[]any{int64(3), 0.25}, "3.25"},
		"small beside large":          {[]any{1e300, 1.5, -1e300}, "1.5"},
		"float of 2^62":               {[]any{float64(1 << 62), int64(1)}, "4611686018427387905"},
		"float of 2^63":               {[]any{float64(1 << 63)}, "9223372036854776000"},
		"saturates":                   {[]any{math.MaxFloat64, math.MaxFloat64}, "1.7976931348623157e+308"},
		"saturates below":             {[]any{-math.MaxFloat64, -math.MaxFloat64}, "-1.7976931348623157e+308"},
		"infinity":                    {[]any{math.Inf(1), 1.0}, "1.7976931348623157e+308"},
		"minus infinity":              {[]any{math.Inf(-1)}, "-1.7976931348623157e+308"},
		"the later infinity stays":    {[]any{math.Inf(1), math.Inf(-1), 1.0}, "-1.7976931348623157e+308"},
		"smallest":                    {[]any{math.SmallestNonzeroFloat64}, "5e-324"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var n number
			for _, v := range tt.add {
				switch v := v.(type) {
				case int64:
					n.addInt(v)
				case float64:
					n.add(v)
				}
			}
			if got := string(n.appendJSON(nil)); got != tt.json {
				t.Errorf("appendJSON() = %s, want %s", got, tt.json)
			}
			d := decoder{b: n.append(nil)}
			if got := d.number(); got != n || d.err != nil || len(d.b) != 0 {
				t.Errorf("decoded %+v, %v, want %+v", got, d.err, n)
			}
			if f := n.float(); math.IsInf(f, 0) || math.IsNaN(f) {
				t.Errorf("float() = %g", f)
			}
		})
	}
}

// Whole terms in any order and grouping are the exact sum.
func TestNumberWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := new(big.Int)
		sums := make([]number, rapid.IntRange(1, 4).Draw(t, "sums"))
		for _, v := range rapid.SliceOf(rapid.Int64()).Draw(t, "terms") {
			want.Add(want, big.NewInt(v))
			sums[rapid.IntRange(0, len(sums)-1).Draw(t, "sum")].addInt(v)
		}
		for i := range sums[1:] {
			sums[0].merge(&sums[i+1])
		}
		if got := string(sums[0].appendJSON(nil)); got != want.String() {
			t.Fatalf("sum = %s, want %s", got, want)
		}
	})
}

// Sums near the greatest float lose precision, never sense.
func TestNumberStaysFinite(t *testing.T) {
	extreme := rapid.SampledFrom([]float64{math.MaxFloat64, -math.MaxFloat64, math.MaxFloat64 / 2, -math.MaxFloat64 / 2,
		math.Nextafter(math.MaxFloat64, 0), -math.MaxFloat64 / 3, math.Ldexp(1, 970), -math.Ldexp(1, 969), math.Inf(1), math.Inf(-1), 0.1})
	rapid.Check(t, func(t *rapid.T) {
		var n number
		for _, v := range rapid.SliceOf(rapid.OneOf(extreme, rapid.Float64())).Draw(t, "terms") {
			n.add(v)
			if m := n; rapid.Bool().Draw(t, "double") {
				n.merge(&m)
			}
			if f := n.float(); math.IsInf(f, 0) || math.IsNaN(f) || math.IsInf(n.lost, 0) || math.IsNaN(n.lost) {
				t.Fatalf("after %g: %+v is %g", v, n, f)
			}
		}
	})
}
