package forwarder

import (
	"context"
	"slices"
	"time"

	"sluice/spool"
)

// A fault is what speaks for it that a batch is the reason why its requests
// fail: an upstream that puts values into SQL answers 500 to what it cannot take,
// as it does when it is out of order. What is known of faults does not outlive the
// process; it is found out again.
type fault struct {
	passes    uint64  // Forwarder.passes when its first request failed
	absents   int     // times that it was verified not to be there since
	condemned bool    // it was refused, and is dead if it is again after another was taken
	verdict   Verdict // the last
}

const (
	// maxFaulty is how many batches that may be at fault can wait for another
	// attempt while others are sealed.
	maxFaulty = 4
	// manyRefusals, with nothing delivered between them, raise the question
	// whether the upstream takes anything at all.
	manyRefusals = 3
	// twice is how often a batch has to be verified as absent.
	twice = 2
)

// suspect notes that a batch is in doubt.
func (f *Forwarder) suspect(b *spool.Batch, v Verdict) {
	have := f.faults[b.Seq]
	switch {
	case !v.Failed || carried(b) == 0:
		delete(f.faults, b.Seq)
	case have == nil:
		f.faults[b.Seq] = &fault{passes: f.passes, verdict: v}
	default:
		have.verdict = v
	}
}

// condemn notes that a batch was refused for good when nothing shows yet that
// others are taken. It is asked for once more after one was.
func (f *Forwarder) condemn(b *spool.Batch, v Verdict) {
	f.faults[b.Seq] = &fault{passes: f.passes, condemned: true, verdict: v}
}

// condemned tells whether a batch waits for another to be taken.
func (f *Forwarder) condemned(seq uint64) bool {
	have := f.faults[seq]
	return have != nil && have.condemned && f.passes == have.passes
}

// atFault tells whether a batch that was verified as absent is refused: its
// requests failed and it was absent, twice, and others were delivered meanwhile.
// Of a batch that a trial asks for once is enough, as long as nothing dies of it:
// a split that was not necessary costs requests and no more.
func (f *Forwarder) atFault(b *spool.Batch) (Verdict, bool) {
	have := f.faults[b.Seq]
	if have == nil {
		return Verdict{}, false
	}
	have.absents++
	if f.tried(b.Seq) && carried(b) > 1 {
		return have.verdict, true
	}
	return have.verdict, have.absents >= twice && f.passes > have.passes
}

// doubted tells whether it is time to ask if the upstream takes anything at all:
// it has refused several batches in a row, or may do so with one and nothing else
// shows whether it is that batch's fault.
func (f *Forwarder) doubted() bool {
	if f.refusals >= manyRefusals {
		return true
	}
	for _, have := range f.faults {
		if (have.absents >= twice || have.condemned) && f.passes == have.passes {
			return true
		}
	}
	return false
}

// ask sends a batch that carries nothing that could be at fault. If it is
// refused, the upstream wants none of ours, and nothing dies.
func (f *Forwarder) ask(ctx context.Context, now time.Time) time.Duration {
	i := slices.IndexFunc(f.outbox.Batches(), func(b spool.Batch) bool { return b.Seq == f.question })
	if f.question == 0 || i < 0 {
		if err := f.hello(now); err != nil {
			return f.trouble("seal", err)
		}
		batches := f.outbox.Batches()
		f.question = batches[len(batches)-1].Seq
		return 0
	}
	question := f.outbox.Batches()[i]
	if b, ok := f.outbox.DueOf(now, func(b *spool.Batch) bool { return b.Seq == f.question }); ok {
		return f.deliver(ctx, b)
	}
	return max(question.Due.Sub(now), time.Second) // or it is in doubt
}

// hello seals a batch of which nothing matters but the answer.
func (f *Forwarder) hello(now time.Time) error {
	sheet := f.newSheet()
	f.upstream.Hello(sheet, now)
	return f.store(sheet, now, func(*spool.Tx) error { return nil })
}
