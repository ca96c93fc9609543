package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
)

// The names in the folder.
const (
	lockName      = "lock"
	identityName  = "agent-id"
	machineName   = "machine"
	trustedName   = "trusted"
	outboxName    = "outbox.db"
	quarantineDir = "quarantine"
	segmentSuffix = ".seg"
	tempSuffix    = ".tmp"
)

// lockTimeout is how long bbolt waits for a file that somebody reads, such as
// a check that is about to end. Ours is the only process that writes.
const lockTimeout = time.Second

// folder is the spool's directory. All names are resolved inside it.
type folder struct {
	path string
	root *os.Root
	lock *os.File

	unsynced bool // see Options
}

// openFolder makes the folder if need be, and locks it.
func openFolder(path string) (*folder, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	lock, err := lockFile(root, lockName)
	if err != nil {
		root.Close()
		return nil, err
	}
	// A package manager may have made it 0755. Not being its owner is no
	// reason to stop: then it is not for us to say.
	_ = root.Chmod(".", 0o700)
	return &folder{path: path, root: root, lock: lock}, nil
}

func (d *folder) close() {
	d.lock.Close()
	d.root.Close()
}

// names lists the folder, sorted. Temporary names are leftovers of a process
// that ended while it made a file: they are removed.
func (d *folder) names() (names []string, err error) {
	list, err := fs.ReadDir(d.root.FS(), ".")
	if err != nil {
		return nil, err
	}
	for _, e := range list {
		if strings.HasSuffix(e.Name(), tempSuffix) {
			if err := d.root.Remove(e.Name()); err != nil {
				return nil, err
			}
			continue
		}
		names = append(names, e.Name())
	}
	return names, nil
}

// regular tells whether name is a file of its own. A symlink is not: it would
// have us write to, or unlink, what somebody else chose.
func (d *folder) regular(name string) (fs.FileInfo, error) {
	info, err := d.root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s is not a regular file (%s)", ErrDamaged, name, info.Mode().Type())
	}
	return info, nil
}

func (d *folder) size(name string) int64 {
	info, err := d.root.Lstat(name)
	if err != nil {
		return 0
	}
	return info.Size()
}

func (d *folder) remove(name string) error {
	if err := d.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDir(d.root)
}

// quarantine sets a file aside under its name, or the first free one with a
// number behind it.
func (d *folder) quarantine(name string) error {
	if err := d.root.Mkdir(quarantineDir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	to := quarantineDir + "/" + name
	for n := 1; ; n++ {
		if _, err := d.root.Lstat(to); errors.Is(err, fs.ErrNotExist) {
			break
		}
		to = fmt.Sprintf("%s/%s.%d", quarantineDir, name, n)
	}
	if err := d.root.Rename(name, to); err != nil {
		return err
	}
	return syncDir(d.root)
}

// quarantined lists what was set aside, oldest first, with its size.
func (d *folder) quarantined() (names []string, bytes int64) {
	list, err := fs.ReadDir(d.root.FS(), quarantineDir)
	if err != nil {
		return nil, 0
	}
	age := map[string]time.Time{}
	for _, e := range list {
		name := quarantineDir + "/" + e.Name()
		if info, err := e.Info(); err == nil {
			bytes += info.Size()
			age[name] = info.ModTime()
		}
		names = append(names, name)
	}
	slices.SortStableFunc(names, func(a, b string) int { return age[a].Compare(age[b]) })
	return names, bytes
}

// write replaces a small file as a whole: temporary name, sync, rename, sync
// of the folder.
func (d *folder) write(name string, content []byte) error {
	f, err := d.root.OpenFile(name+tempSuffix, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return d.rename(name+tempSuffix, name)
}

func (d *folder) rename(from, to string) error {
	if err := d.root.Rename(from, to); err != nil {
		return err
	}
	return syncDir(d.root)
}

// dbOptions are those of every bbolt file here. The freelist stays synced:
// without it bbolt scans the file at open in a goroutine that a damaged page
// kills together with the process.
func (d *folder) dbOptions() *bolt.Options {
	return &bolt.Options{
		Timeout:      lockTimeout,
		FreelistType: bolt.FreelistMapType,
		NoStatistics: true,
		NoSync:       d.unsynced,
		OpenFile: func(path string, flag int, mode os.FileMode) (*os.File, error) {
			return d.root.OpenFile(filepath.Base(path), flag, mode)
		},
	}
}

// openDB opens a bbolt file of the folder under guard.
func (d *folder) openDB(name string, opt *bolt.Options) (db *bolt.DB, err error) {
	err = guard(func() error {
		db, err = bolt.Open(filepath.Join(d.path, name), 0o600, opt)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return db, nil
}

func closeDB(db *bolt.DB) error { return guard(db.Close) }

// A file is trusted when it is as it was when this program last finished it:
// same size, same time of change. All others have been written to since, by
// us before an unclean stop or by somebody else, and are checked before they
// are opened.
const trustedHeader = "sluice spool trusted 1\n"

func (d *folder) readTrusted() map[string]bool {
	b, err := d.root.ReadFile(trustedName)
	text, ok := strings.CutPrefix(string(b), trustedHeader)
	if err != nil || !ok {
		return nil
	}
	trusted := map[string]bool{}
	for line := range strings.Lines(text) {
		trusted[line] = true
	}
	return trusted
}

// seal is name's line in the list of trusted files; "" when it cannot be seen.
func (d *folder) seal(name string) string {
	info, err := d.regular(name)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%s %d %d\n", name, info.Size(), info.ModTime().UnixNano())
}

func (d *folder) writeTrusted(names []string) error {
	text := trustedHeader
	for _, n := range names {
		text += d.seal(n)
	}
	return d.write(trustedName, []byte(text))
}
