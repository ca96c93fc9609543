package origin

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/aggregator"
)

// patience bounds waits for what must happen; no test waits that long when it passes.
const patience = time.Minute

// process writes what /proc says of a process.
func process(t *testing.T, o Options, pid int32, cgroup string) {
	t.Helper()
	dir := filepath.Join(o.Proc, strconv.Itoa(int(pid)))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup"), []byte(cgroup), 0o600); err != nil {
		t.Fatal(err)
	}
}

// run runs a table until the test's end.
func run(t *testing.T, o Options) *Table {
	t.Helper()
	table := New(slog.New(slog.DiscardHandler))
	table.Configure(o)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { table.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return table
}

// await asks until there is an answer that is taken.
func await(t *testing.T, what string, good func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !good(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func spell(tags []aggregator.Tag) string {
	var all []string
	for _, t := range tags {
		all = append(all, t.Key+":"+t.Value)
	}
	return strings.Join(all, ",")
}

func (t *Table) process(pid int32) string {
	return spell(t.Tags(t.Process(pid, time.Now().UnixNano())))
}
func (t *Table) claim(c string) string {
	return spell(t.Tags(t.Claim([]byte(c), time.Now().UnixNano())))
}

// The kubelet is away at first, and learns of a container later than it sends; what it
// knew stays while it fails.
func TestTable(t *testing.T) {
	var up, old atomic.Bool
	o := serveKubelet(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !up.Load():
			w.WriteHeader(http.StatusServiceUnavailable)
		case old.Load():
			w.Write([]byte(`{"items":[]}`))
		default:
			w.Write(podList(t))
		}
	})
	o.Labels = map[string]string{"app.kubernetes.io/name": "app"}
	process(t, o, 100, "0::/kubepods/burstable/pod"+podA+"/"+idA+"\n")
	process(t, o, 101, "0::/kubepods/burstable/pod"+podA+"/"+strings.Repeat("0", 64)+"\n") // has no status yet
	process(t, o, 102, "0::/system.slice/sshd.service\n")
	table := run(t, o)
	if got := table.process(100); got != "" {
		t.Errorf("known at once: %s", got)
	}
	await(t, "the kubelet's failure is told", func() bool { s := table.Stats(); return s.Error != "" && s.Looked > 0 })
	if got := table.process(100); got != "" {
		t.Errorf("known while the kubelet is away: %s", got)
	}
	up.Store(true)
	await(t, "a container is known", func() bool { return table.process(100) != "" })
	pod := "namespace:sales,pod:shop-7d9f8c6b5-x2x9z"
	if got, want := table.process(100), pod+",container:web,app:shop"; got != want {
		t.Errorf("process 100 has %s, want %s", got, want)
	}
	for claim, want := range map[string]string{
		"ci-" + idB:                    pod + ",container:proxy,app:shop",
		"it-false,cn-proxy,pu-" + podA: pod + ",container:proxy,app:shop",
		podA:                           pod + ",app:shop",
		hash:                           "namespace:kube-system,pod:etcd-node-1",
	} {
		await(t, "the claim "+claim+" is known", func() bool { return table.claim(claim) != "" })
		if got := table.claim(claim); got != want {
			t.Errorf("claim %s has %s, want %s", claim, got, want)
		}
	}
	await(t, "a pod is known whose container is not", func() bool { return table.process(101) != "" })
	if got, want := table.process(101), pod+",app:shop"; got != want {
		t.Errorf("process 101 has %s, want %s", got, want)
	}
	looked := table.Stats().Looked
	table.process(102)
	await(t, "three processes are looked up", func() bool { return table.Stats().Looked > looked })
	if got := table.process(102); got != "" {
		t.Errorf("a process of the host has %s", got)
	}
	up.Store(false)
	polls := table.Stats().Failed
	await(t, "the kubelet is asked again, for a container is missing", func() bool { table.claim(idA[1:] + "0"); return table.Stats().Failed > polls })
	if table.process(100) == "" {
		t.Error("what was known is forgotten while the kubelet is away")
	}
	if s := table.Stats(); s.Known < 5 || s.Containers != 3 || s.Asked == 0 {
		t.Errorf("Stats() = %+v", s)
	}
}

// Other options make what was known void; none at all answer nothing, and numbers are
// never given out twice.
func TestConfigure(t *testing.T) {
	dir := t.TempDir()
	o := Options{Detect: true, MapFile: filepath.Join(dir, "map"), Proc: filepath.Join(dir, "proc"), Tags: []string{"container_id"}}
	if err := os.WriteFile(o.MapFile, []byte(idA+" container:web\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	process(t, o, 100, "0::/docker/"+idA+"\n")
	process(t, o, 101, "0::/docker/"+idB+"\n")
	table := run(t, o)
	await(t, "the map file is read", func() bool { return table.process(100) == "container:web" })
	await(t, "an id is told", func() bool { return table.process(101) == "container_id:"+idB })
	first := table.Process(100, time.Now().UnixNano())
	if table.Configure(o) {
		t.Error("the same options are others")
	}
	if err := os.WriteFile(o.MapFile, []byte("broken\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	o.Tags = []string{"container"}
	if !table.Configure(o) {
		t.Error("other options are the same")
	}
	await(t, "the fault is told", func() bool { return strings.Contains(table.Stats().Error, "line 1") })
	if got := table.process(100); got != "" {
		t.Errorf("with a broken file: %s", got)
	}
	if err := os.WriteFile(o.MapFile, []byte(idA[:12]+" container:web\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	await(t, "the file is read again", func() bool { return table.process(100) == "container:web" })
	if again := table.Process(100, time.Now().UnixNano()); again == first {
		t.Errorf("the number %d was given out twice", again)
	}
	o.Detect = false
	table.Configure(o)
	if table.On() || table.process(100) != "" {
		t.Error("it answers while it is off")
	}
}

// A process number that is given to another process, and time.
func TestAnswersAge(t *testing.T) {
	dir := t.TempDir()
	o := Options{Detect: true, Proc: filepath.Join(dir, "proc"), Tags: []string{"container_id"}}
	table := New(slog.New(slog.DiscardHandler))
	table.Configure(o)
	look := func() { table.look([]question{{pid: 7}}) }
	process(t, o, 7, "0::/docker/"+idA+"\n")
	look()
	now := time.Now().UnixNano()
	a := table.Process(7, now)
	if a == 0 || len(table.questions) != 0 {
		t.Fatalf("origin %d, %d questions; want one and none", a, len(table.questions))
	}
	later := now + int64(fresh+2*time.Second)
	if got := table.Process(7, later); got != a || len(table.questions) != 1 {
		t.Errorf("origin %d with %d questions after %v, want %d and one", got, len(table.questions), fresh, a)
	}
	table.Process(7, later)
	if len(table.questions) != 1 {
		t.Error("it is asked twice")
	}
	if got := table.Process(7, now+int64(stale+2*time.Second)); got != 0 {
		t.Errorf("origin %d after %v, want none", got, stale)
	}
	if err := os.RemoveAll(filepath.Join(o.Proc, "7")); err != nil {
		t.Fatal(err)
	}
	look()
	if got := table.Process(7, time.Now().UnixNano()); got != a {
		t.Errorf("what is queued of a process that has ended: origin %d, want %d", got, a)
	}
	process(t, o, 7, "0::/docker/"+idB+"\n")
	look()
	if got := table.process(7); got != "container_id:"+idB {
		t.Errorf("another process of the number has %s", got)
	}
	if spell(table.Tags(a)) != "container_id:"+idA {
		t.Error("an origin has changed")
	}
	far := time.Now().UnixNano() + int64(2*idle)
	table.sweep(far)
	table.sweep(far)
	if s := table.Stats(); s.Answers != 0 || len(table.book.lists) != 0 || len(table.book.numbers) != 0 {
		t.Errorf("after %v: %+v, %d lists", 2*idle, s, len(table.book.lists))
	}
}

// A flood of claims neither grows what is remembered nor pushes out what is known, and
// of its questions only so many wait.
func TestFloodOfClaims(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "map")
	if err := os.WriteFile(file, []byte(idA+" container:web\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	table := New(slog.New(slog.DiscardHandler))
	table.Configure(Options{Detect: true, MapFile: file})
	table.askSources(t.Context())
	table.look([]question{{claim: idA}})
	now, flood := time.Now().UnixNano(), 0
	for range 3 * MaxAnswers / lookBatch {
		var all []question
		for range lookBatch {
			flood++
			claim := fmt.Sprintf("ci-%064x", flood)
			table.Claim([]byte(claim), now)
			all = append(all, question{claim: claim})
		}
		table.look(all)
	}
	s := table.Stats()
	if s.Answers > MaxAnswers || s.Evicted == 0 || s.Dropped == 0 || len(table.questions) != maxQuestions {
		t.Errorf("Stats() = %+v with %d questions; want at most %d answers and %d questions", s, len(table.questions), MaxAnswers, maxQuestions)
	}
	if got := spell(table.Tags(table.Claim([]byte(idA), now))); got != "container:web" {
		t.Errorf("what was known has %q", got)
	}
	if table.Claim([]byte(strings.Repeat("x", MaxClaim+1)), now) != 0 || table.Claim(nil, now) != 0 || table.Process(0, now) != 0 || table.Process(-1, now) != 0 {
		t.Error("something has the origin of nobody")
	}
}

// Asking allocates nothing, whether it is known or not.
func TestAskingAllocatesNothing(t *testing.T) {
	dir := t.TempDir()
	o := Options{Detect: true, Proc: dir, Tags: []string{"container_id"}}
	table := New(slog.New(slog.DiscardHandler))
	table.Configure(o)
	process(t, o, 7, "0::/docker/"+idA+"\n")
	claim := []byte("ci-" + idB)
	table.look([]question{{pid: 7}, {claim: string(claim)}})
	now := time.Now().UnixNano()
	if n := testing.AllocsPerRun(100, func() { table.Process(7, now); table.Claim(claim, now) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkAsking is the part of origin detection that a packet pays for, with as many
// others known as there may be.
func BenchmarkAsking(b *testing.B) {
	dir := b.TempDir()
	table := New(slog.New(slog.DiscardHandler))
	table.Configure(Options{Detect: true, Proc: dir, Tags: []string{"container_id"}})
	var all []question
	for pid := range int32(4000) {
		if err := os.MkdirAll(filepath.Join(dir, strconv.Itoa(int(pid))), 0o700); err != nil {
			b.Fatal(err)
		}
		text := fmt.Sprintf("0::/docker/%064x\n", pid+1)
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(int(pid)), "cgroup"), []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
		all = append(all, question{pid: pid}, question{claim: fmt.Sprintf("ci-%064x", pid+1)})
	}
	for ; len(all) > 0; all = all[min(len(all), 100):] {
		table.look(all[:min(len(all), 100)])
	}
	now := time.Now().UnixNano()
	claim := fmt.Appendf(nil, "ci-%064x", 2001)
	if table.Process(2000, now) == 0 || table.Process(2000, now) != table.Claim(claim, now) {
		b.Fatal("they are not known")
	}
	b.Run("process", func(b *testing.B) {
		for b.Loop() {
			table.Process(2000, now)
		}
	})
	b.Run("claim", func(b *testing.B) {
		for b.Loop() {
			table.Claim(claim, now)
		}
	})
}
