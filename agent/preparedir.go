package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

// newPrepareDir makes a folder of the host usable for the agent's user, as an
// init container does that runs as root with no more than CAP_CHOWN: the kubelet
// makes such folders for root alone, and there is no shell in the image.
func newPrepareDir() *cobra.Command {
	return &cobra.Command{
		Use:     "prepare-dir FOLDER UID:GID",
		Short:   "Give a folder to a user (for init containers)",
		Example: "  sluice prepare-dir /run/sluice 65532:65532",
		Hidden:  true,
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usagef("prepare-dir takes a folder and UID:GID (see sluice prepare-dir --help)")
			}
			uid, gid, err := parseOwner(args[1])
			if err != nil {
				return usagef("prepare-dir %s: %w", args[0], err)
			}
			return prepareDir(args[0], uid, gid)
		},
	}
}

func parseOwner(text string) (uid, gid int, err error) {
	user, group, _ := strings.Cut(text, ":")
	u, errUser := strconv.ParseUint(user, 10, 31)
	g, errGroup := strconv.ParseUint(group, 10, 31)
	if errUser != nil || errGroup != nil {
		return 0, 0, fmt.Errorf("the owner %q is not UID:GID in numbers, such as 65532:65532", text)
	}
	return int(u), int(g), nil
}

// prepareDir leaves what is in the folder alone, and a link at its place.
func prepareDir(path string, uid, gid int) error {
	if err := os.Mkdir(path, 0o755); err != nil && !os.IsExist(err) {
		return err
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("prepare-dir %s: it is not a folder", path)
	}
	return os.Lchown(path, uid, gid)
}
