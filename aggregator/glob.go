package aggregator

// Match tells whether text is what the glob says: * stands for any number of
// bytes, ? for one, all else for itself. Every * takes as little as it can, the
// last one what is left.
func Match(glob, text string) bool { return match(glob, text, nil) }

// A Capture is what a * stood for: text[Start:End].
type Capture struct{ Start, End int }

// Captures is Match that appends what each * of the glob stood for to dst, in
// their order.
func Captures(dst []Capture, glob, text string) ([]Capture, bool) {
	before := len(dst)
	ok := match(glob, text, &dst)
	if !ok {
		dst = dst[:before]
	}
	return dst, ok
}

func match(glob, text string, captures *[]Capture) bool {
	star, mark := -1, 0 // the last * and where in text what it stands for ends
	g, n := 0, 0
	for n < len(text) || g < len(glob) {
		switch {
		case g < len(glob) && glob[g] == '*':
			star, mark = g, n
			g++
			if captures != nil {
				*captures = append(*captures, Capture{n, n})
			}
		case g < len(glob) && n < len(text) && (glob[g] == '?' || glob[g] == text[n]):
			g++
			n++
		case star >= 0 && mark < len(text):
			mark++
			g, n = star+1, mark
			if captures != nil {
				(*captures)[len(*captures)-1].End = mark
			}
		default:
			return false
		}
	}
	return true
}
