package listeners

import "testing"

// BenchmarkTap is what a reader pays for the tap, once per system call, while
// nobody looks.
func BenchmarkTap(b *testing.B) {
	t := new(Tap)
	b.ReportAllocs()
	for b.Loop() {
		if t.get() != nil {
			b.Fatal("somebody looks")
		}
	}
}
