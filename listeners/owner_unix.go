//go:build unix

package listeners

import (
	"io/fs"
	"os"
	"syscall"
)

// isOurs answers whether a file belongs to the user that this process acts as.
func isOurs(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return !ok || int(stat.Uid) == os.Geteuid()
}
