package listeners

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"slices"
	"sync"
	"time"
)

// Bounds of DataCat's sessions, which are in memory alone.
const (
	maxSessions    = 10_000
	maxSessionText = 255       // bytes of product, version, machine and host name
	maxTotalBytes  = 16 << 20  // of running totals, in all sessions
	idleSession    = time.Hour // so long a session stays, at least, that nobody calls
	idleEnded      = 10 * time.Minute
	longestSession = 24 * time.Hour // without a call
)

// A session is one run of a DataCat program.
type session struct {
	id, product, version, machine, host string
	created                             time.Time
	remote                              bool // the upstream's: id is from there

	// Guarded by sessions.mu.
	used, ended time.Time
	crashed     bool

	mu     sync.Mutex        // guards the fields below; may be held while samples are added
	totals map[string]*total // by the series' key
	bytes  int               // of them, taken from sessions.totals
}

// sessions are those that exist. A session is forgotten when nobody has called it
// for a day, or ten minutes after its end; and when there are too many, the one
// goes that was idle longest, if that is more than an hour.
type sessions struct {
	totals budget // bytes of running totals

	mu    sync.Mutex // guards the fields below
	byID  map[string]*session
	swept time.Time
}

func newSessions() *sessions {
	s := &sessions{byID: make(map[string]*session)}
	s.totals.left.Store(maxTotalBytes)
	return s
}

// Sessions returns how many sessions of DataCat's programs are known.
func (a *API) Sessions() int {
	a.sessions.mu.Lock()
	defer a.sessions.mu.Unlock()
	return len(a.sessions.byID)
}

// newSessionID returns a random UUID (RFC 9562, version 4).
func newSessionID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0F|0x40, b[8]&0x3F|0x80
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// validSessionID answers whether id can be one. Nothing else gets into the path
// of a request to an upstream: url.PathEscape leaves ".." as it is, and an
// escaped slash is a slash to some servers.
func validSessionID(id string) bool {
	if len(id) == 0 || len(id) > 64 {
		return false
	}
	for i := range len(id) {
		c := id[i]
		if !isDigit(c) && c|0x20-'a' > 'z'-'a' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// get returns a session that is used now, or nil.
func (l *sessions) get(id string, now time.Time) *session {
	if !validSessionID(id) {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.byID[id]
	if s == nil || l.expiredLocked(s, now) {
		return nil
	}
	s.used = now
	return s
}

// add keeps a session, or answers false when there is no room.
func (l *sessions) add(s *session, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.swept) > time.Minute {
		l.swept = now
		for _, old := range l.byID {
			if l.expiredLocked(old, now) {
				l.forgetLocked(old)
			}
		}
	}
	if len(l.byID) >= maxSessions {
		var idlest *session
		for _, old := range l.byID {
			if idlest == nil || old.used.Before(idlest.used) {
				idlest = old
			}
		}
		if now.Sub(idlest.used) < idleSession {
			return false
		}
		l.forgetLocked(idlest)
	}
	s.used = now
	l.byID[s.id] = s
	return true
}

func (l *sessions) expiredLocked(s *session, now time.Time) bool {
	return now.Sub(s.used) > longestSession || !s.ended.IsZero() && now.Sub(s.used) > idleEnded
}

func (l *sessions) forgetLocked(s *session) {
	delete(l.byID, s.id)
	s.mu.Lock()
	defer s.mu.Unlock()
	l.totals.left.Add(int64(s.bytes))
	s.totals, s.bytes = nil, 0
}

// end notes that a program has ended.
func (l *sessions) end(s *session, crashed bool, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.ended, s.crashed = now, crashed
}

// all returns the sessions, oldest first.
func (l *sessions) all(now time.Time) []*session {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []*session
	for _, s := range l.byID {
		if !l.expiredLocked(s, now) {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b *session) int {
		return cmp.Or(a.created.Compare(b.created), cmp.Compare(a.id, b.id))
	})
	return all
}

// append writes a session the way DataCat's server does. What it has sent, its
// state included, is not kept here.
func (l *sessions) append(dst []byte, s *session) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := func(before, v string) { dst = appendText(append(dst, before...), []byte(v)) }
	at := func(before string, t time.Time) {
		dst = append(appendTimestamp(append(append(dst, before...), '"'), t.UnixNano()), '"')
	}
	truth := func(before string, v bool) {
		dst = append(dst, before...)
		if v {
			dst = append(dst, "true"...)
		} else {
			dst = append(dst, "false"...)
		}
	}
	text(`{"id":`, s.id)
	at(`,"created_at":`, s.created)
	at(`,"updated_at":`, s.used)
	if !s.ended.IsZero() {
		at(`,"ended_at":`, s.ended)
	}
	truth(`,"active":`, s.ended.IsZero())
	truth(`,"suspended":false,"crashed":`, s.crashed)
	dst = append(dst, `,"hung":false`...)
	if s.machine != "" {
		text(`,"machine_id":`, s.machine)
	}
	if s.host != "" {
		text(`,"hostname":`, s.host)
	}
	text(`,"state":{"product":`, s.product)
	text(`,"version":`, s.version)
	return append(dst, `},"state_history":[],"events":[],"metrics":[]}`...)
}
