package forwarder

// globMatch tells whether name is what the glob says: * stands for any number
// of characters, ? for one byte, all else for itself.
func globMatch(glob, name string) bool {
	star, mark := -1, 0 // the last * and where in name its text ends
	g, n := 0, 0
	for n < len(name) {
		switch {
		case g < len(glob) && glob[g] == '*':
			star, mark = g, n
			g++
		case g < len(glob) && (glob[g] == '?' || glob[g] == name[n]):
			g++
			n++
		case star >= 0:
			mark++
			g, n = star+1, mark
		default:
			return false
		}
	}
	for g < len(glob) && glob[g] == '*' {
		g++
	}
	return g == len(glob)
}
