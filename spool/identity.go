package spool

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
)

// identify gives the agent's id, 64 random bits. A folder that was made on another
// machine is a copy, of a disk that an image was made of for one: two agents with one
// id would take each other's batches for their own. So it gets a new id.
func (s *Spool) identify(dir *folder) (string, error) {
	old, err := dir.readID(identityName)
	if err != nil || s.opt.Guest {
		return old, err
	}
	here, there := "", ""
	if s.opt.Machine != "" {
		sum := sha256.Sum256([]byte("sluice spool " + s.opt.Machine)) // others may not learn it
		here = hex.EncodeToString(sum[:8])
		if there, err = dir.readID(machineName); err != nil {
			return "", err
		}
	}
	id, moved := old, there != "" && there != here
	if old == "" || moved {
		var random [8]byte
		rand.Read(random[:])
		id = hex.EncodeToString(random[:])
		if err := dir.write(identityName, []byte(id)); err != nil {
			return "", err
		}
		if moved && old != "" {
			s.log.Warn("the spool was used on another machine: this agent has a new identity; what is pending is delivered, also if the other machine does so",
				"was", old, "is", id)
		}
	}
	if there == here {
		return id, nil
	}
	if err := dir.write(machineName, []byte(here)); err != nil && moved { // else the next start notes it
		return "", err
	}
	return id, nil
}

// readID reads a file of 16 hexadecimal digits; "" when it is not there, or another
// text.
func (d *folder) readID(name string) (string, error) {
	b, err := d.root.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if id, bad := hex.DecodeString(string(b)); err != nil || bad != nil || len(id) != 8 {
		return "", err
	}
	return string(b), nil
}
