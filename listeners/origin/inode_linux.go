package origin

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// maxGroups bounds the control groups that are looked at for their inodes: a node of 500
// pods has about 5,000.
const maxGroups = 50_000

// groupInodes finds the inodes of the control groups that are containers' own. Clients
// look their inode up where version 2 is mounted, or in the hierarchy memory of
// version 1 (datadog-go, container_linux.go).
func groupInodes(root string) map[uint64]ref {
	found := map[uint64]ref{}
	left := maxGroups
	for _, hierarchy := range []string{"", "unified", "memory"} {
		dir := filepath.Join(root, hierarchy)
		if hierarchy == "" {
			if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil {
				continue // version 1, or a mixture
			}
		}
		filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil || left <= 0:
				return fs.SkipDir
			case !d.IsDir():
				return nil
			}
			left--
			if containerID(d.Name()) == "" {
				return nil
			}
			info, err := d.Info()
			if err != nil {
				return nil
			}
			if s, ok := info.Sys().(*syscall.Stat_t); ok {
				found[s.Ino] = pathRef(strings.TrimPrefix(path, dir))
			}
			return fs.SkipDir // what runs in it is the same container
		})
	}
	return found
}
