package forwarder

import (
	"encoding/binary"
	"time"
)

// A share is how many of the configured requests a minute this agent takes. The
// upstream counts them by its key, and other agents may have the same: as none of
// ours makes more than is configured, an answer of 429 says that together they do.
// It halves the share, at most once a minute; each minute in which something was
// delivered and nothing refused adds one. Agents that share a key so come to equal
// shares without talking to each other (additive increase, multiplicative decrease:
// D. Chiu and R. Jain, Computer Networks and ISDN Systems 17, 1989).
type share struct {
	now, most int
	halved    time.Time // when last; zero if never
	since     time.Time // begin of the minute that is to be clean
	delivered bool      // something was, in it
}

func newShare(most int, now time.Time) *share { return &share{now: most, most: most, since: now} }

// refused notes an answer of 429.
func (s *share) refused(now time.Time) {
	if s.halved.IsZero() || now.Sub(s.halved) >= window {
		s.now, s.halved = max(1, s.now/2), now
	}
	s.since, s.delivered = now, false
}

// taken notes a delivery. It answers whether the share has grown.
func (s *share) taken(now time.Time) bool {
	if s.now >= s.most {
		return false
	}
	if now.Sub(s.since) < window {
		s.delivered = true
		return false
	}
	grown := s.delivered
	if grown {
		s.now++
	}
	s.since, s.delivered = now, true
	return grown
}

// encode gives the share as stored with the request times: 8 bytes its value, 8
// bytes when it was halved, nanoseconds since 1970, 0 if never.
func (s *share) encode() []byte {
	at := int64(0)
	if !s.halved.IsZero() {
		at = s.halved.UnixNano()
	}
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, uint64(s.now)), uint64(at))
}

// restore takes up a stored share. A time in the future counts as now.
func (s *share) restore(v []byte, now time.Time) {
	if len(v) != 16 {
		return
	}
	s.now = int(min(max(binary.BigEndian.Uint64(v), 1), uint64(s.most)))
	if at := int64(binary.BigEndian.Uint64(v[8:])); at != 0 {
		s.halved = now.Add(min(0, time.Unix(0, at).Sub(now)))
	}
}
