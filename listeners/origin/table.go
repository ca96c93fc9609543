package origin

import (
	"cmp"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sluice/aggregator"
)

const (
	// MaxAnswers bounds the processes, and the claims, that are remembered.
	MaxAnswers = 4096
	// MaxClaim is the longest claim that is looked at, in bytes. A container's id has
	// 64, the field e: with all its parts about 150.
	MaxClaim = 256

	maxQuestions = 1024
	// lookBatch and lookPause bound what look-ups cost: 2,560 a second of about 20 us.
	lookBatch = 128
	lookPause = 50 * time.Millisecond

	// fresh is how long an answer is taken for true. A process number that is given to
	// another process meanwhile has the old one's tags for as long.
	fresh = 10 * time.Second
	// stale is when an answer is no longer given at all, should look-ups lag behind.
	stale = time.Minute
	// idle is when an answer is forgotten that nobody asks for.
	idle = 5 * time.Minute
)

// Options say what is looked up, and where.
type Options struct {
	// Detect turns all of it on.
	Detect bool

	Kubelet   string // base URL, such as https://10.0.0.1:10250; "" does not ask
	TokenFile string // of the token that the kubelet is shown; "" shows none
	CAFile    string // of those who may have signed its certificate; "" are the system's
	Insecure  bool   // takes any certificate

	MapFile string // what containers and pods are, see docs/configuration.md; ""

	Proc    string // where the processes are: /proc
	Cgroups string // where the control groups are: /sys/fs/cgroup

	Tags   []string          // which tags are made: see TagNames
	Labels map[string]string // label of a pod → key of the tag made of it
}

// A Table knows the origin of what arrives. Its methods may be called concurrently.
type Table struct {
	log       *slog.Logger
	published atomic.Pointer[published] // nil: off
	questions chan question
	need      chan struct{} // something is not known that the sources may know
	changed   chan struct{} // other options

	mu      sync.Mutex // guards the fields below
	options Options
	book    book
	sources sources
	stats   Stats

	dropped atomic.Uint64
}

// Stats is what a Table has counted since it was made.
type Stats struct {
	Answers    int    // processes and claims that are remembered
	Known      int    // those of them that have an origin
	Containers int    // that the kubelet and the map file tell of
	Looked     uint64 // processes and claims looked up
	Dropped    uint64 // questions beyond maxQuestions, asked again by the next packet
	Evicted    uint64 // answers beyond MaxAnswers
	Asked      uint64 // answers of the kubelet that were taken
	Failed     uint64 // questions to the kubelet, or readings of the map file, that failed
	Error      string // of the last one, "" if it was good
}

// published is what readers see. It never changes, but for the uses of its answers.
type published struct {
	processes map[int32]*answer
	claims    map[string]*answer
	tags      map[uint32][]aggregator.Tag
}

// An answer is what is known of a process or a claim.
type answer struct {
	origin  uint32       // 0: nothing
	checked int64        // when, nanoseconds since 1970
	used    atomic.Int64 // the same, to a second
	asked   atomic.Bool  // it is being looked up again
}

// A question is about a process, or a claim if pid is 0.
type question struct {
	pid   int32
	claim string
}

// New returns a table that answers nothing until it is configured.
func New(log *slog.Logger) *Table {
	return &Table{log: log, questions: make(chan question, maxQuestions), need: make(chan struct{}, 1),
		changed: make(chan struct{}, 1), book: newBook()}
}

// Configure sets the options. What was known of containers is asked for anew if they
// are others than before; it answers whether.
func (t *Table) Configure(o Options) (changed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if o.equal(t.options) {
		return false
	}
	t.options = o
	t.sources.reset()
	t.book.clear()
	t.publishLocked()
	select {
	case t.changed <- struct{}{}:
	default:
	}
	return true
}

func (o Options) equal(p Options) bool {
	return reflect.DeepEqual(o, p)
}

// Process returns the origin of a process, 0 if it is not known at this moment. now is
// in nanoseconds since 1970. It does not wait.
func (t *Table) Process(pid int32, now int64) uint32 {
	p := t.published.Load()
	if p == nil || pid <= 0 {
		return 0
	}
	a := p.processes[pid]
	if a.due(now) {
		t.ask(a, question{pid: pid})
	}
	return a.at(now)
}

// Claim returns the origin of a claim, which is lent, in the same way.
func (t *Table) Claim(claim []byte, now int64) uint32 {
	p := t.published.Load()
	if p == nil || len(claim) == 0 || len(claim) > MaxClaim {
		return 0
	}
	a := p.claims[string(claim)]
	if a.due(now) {
		t.ask(a, question{claim: string(claim)})
	}
	return a.at(now)
}

// Tags returns the tags of an origin, which the caller does not change. An origin
// that has not been answered for idle may be forgotten and has none.
func (t *Table) Tags(origin uint32) []aggregator.Tag {
	if p := t.published.Load(); p != nil {
		return p.tags[origin]
	}
	return nil
}

// On answers whether origins are looked up.
func (t *Table) On() bool { return t.published.Load() != nil }

// due notes that an answer is used and tells whether it is to be looked up.
func (a *answer) due(now int64) bool {
	if a == nil {
		return true
	}
	if now-a.used.Load() > int64(time.Second) {
		a.used.Store(now)
	}
	return now-a.checked > int64(fresh) && a.asked.CompareAndSwap(false, true)
}

func (a *answer) at(now int64) uint32 {
	if a == nil || now-a.checked > int64(stale) {
		return 0
	}
	return a.origin
}

// ask has something looked up; should there be too many questions, it is asked again
// by the next use.
func (t *Table) ask(a *answer, q question) {
	select {
	case t.questions <- q:
	default:
		t.dropped.Add(1)
		if a != nil {
			a.asked.Store(false)
		}
	}
}

// Stats returns what has been counted so far.
func (t *Table) Stats() Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.stats
	s.Dropped = t.dropped.Load()
	s.Answers = len(t.book.processes) + len(t.book.claims)
	s.Known = t.book.known()
	s.Containers = t.sources.containers()
	s.Error = cmp.Or(t.sources.mapError, t.sources.kubeletError)
	return s
}

// publishLocked shows readers what the book has.
func (t *Table) publishLocked() {
	if !t.options.Detect {
		t.published.Store(nil)
		return
	}
	p := &published{processes: make(map[int32]*answer, len(t.book.processes)),
		claims: make(map[string]*answer, len(t.book.claims)), tags: make(map[uint32][]aggregator.Tag, len(t.book.lists))}
	for pid, r := range t.book.processes {
		p.processes[pid] = r.answer
	}
	for claim, r := range t.book.claims {
		p.claims[claim] = r.answer
	}
	for origin, l := range t.book.lists {
		p.tags[origin] = l.tags
	}
	t.published.Store(p)
}

// A book has all that is known, and the numbers of lists of tags.
type book struct {
	processes map[int32]*record
	claims    map[string]*record
	lists     map[uint32]*list
	numbers   map[string]uint32 // by the text of the list
	last      uint32            // number that was given out
}

// A record is what a process or claim refers to, and the answer made of it.
type record struct {
	ref    ref
	answer *answer
}

// A list is what an origin stands for.
type list struct {
	tags []aggregator.Tag
	text string
	used int64 // when an answer last had it
}

func newBook() book {
	return book{processes: map[int32]*record{}, claims: map[string]*record{}, lists: map[uint32]*list{}, numbers: map[string]uint32{}}
}

// clear forgets all but which numbers were given out.
func (b *book) clear() {
	last := b.last
	*b = newBook()
	b.last = last
}

func (b *book) known() (n int) {
	for _, r := range b.processes {
		n += min(int(r.answer.origin), 1)
	}
	for _, r := range b.claims {
		n += min(int(r.answer.origin), 1)
	}
	return n
}

// number returns the origin that stands for tags, 0 if there are none.
func (b *book) number(tags []aggregator.Tag, now int64) uint32 {
	if len(tags) == 0 {
		return 0
	}
	var text strings.Builder
	for _, t := range tags {
		text.WriteString(t.Key + "\x00" + t.Value + "\x00")
	}
	n, ok := b.numbers[text.String()]
	if !ok {
		b.last++
		n = b.last
		b.numbers[text.String()] = n
		b.lists[n] = &list{tags: tags, text: text.String()}
	}
	b.lists[n].used = now
	return n
}

// answer writes down what was found, keeping when it was last used.
func (r *record) note(origin uint32, now int64) {
	used := now
	if r.answer != nil {
		used = r.answer.used.Load()
	}
	r.answer = &answer{origin: origin, checked: now}
	r.answer.used.Store(used)
}

// sweep forgets what is idle, and lists that no answer has had for that long.
func (b *book) sweep(now int64) {
	before := now - int64(idle)
	old := func(r *record) bool { return r.answer.used.Load() < before }
	maps.DeleteFunc(b.processes, func(_ int32, r *record) bool { return old(r) })
	maps.DeleteFunc(b.claims, func(_ string, r *record) bool { return old(r) })
	for _, r := range b.processes {
		b.keep(r, now)
	}
	for _, r := range b.claims {
		b.keep(r, now)
	}
	for n, l := range b.lists {
		if l.used < before {
			delete(b.lists, n)
			delete(b.numbers, l.text)
		}
	}
}

func (b *book) keep(r *record, now int64) {
	if l := b.lists[r.answer.origin]; l != nil {
		l.used = now
	}
}

// crowd makes room in one of the two: an eighth goes, of those that are not known
// first, and then of those that were not used for longest.
func crowd[K comparable](all map[K]*record) (gone int) {
	if len(all) < MaxAnswers {
		return 0
	}
	type one struct {
		key  K
		rank int64
	}
	ranked := make([]one, 0, len(all))
	for k, r := range all {
		rank := r.answer.used.Load()
		if r.answer.origin == 0 {
			rank -= int64(100 * 365 * 24 * time.Hour)
		}
		ranked = append(ranked, one{k, rank})
	}
	slices.SortFunc(ranked, func(x, y one) int { return cmp.Compare(x.rank, y.rank) })
	for _, o := range ranked[:MaxAnswers/8] {
		delete(all, o.key)
	}
	return MaxAnswers / 8
}
