package origin

import (
	"context"
	"os"
	"time"

	"sluice/aggregator"
)

// TagNames are the tags that can be made of an origin.
var TagNames = []string{"namespace", "pod", "container", "container_id", "image", "workload"}

const (
	// Sources are asked from time to time; when somebody asks for a container that they
	// do not know, a moment later; and again after pauses that double, while some are
	// unknown and nothing new comes out.
	askEvery = time.Minute
	pauseMin = time.Second
	pauseMax = 15 * time.Second
)

// A container is what the kubelet tells of one.
type container struct {
	name, id, image string
}

// A pod is what the kubelet tells of one.
type pod struct {
	uid, name, namespace, workload string
	labels                         map[string]string // those that are asked for
	containers                     []container
}

// place is a container in its pod, or a pod alone.
type place struct {
	pod       *pod
	container *container // nil: it is not known which
}

// sources are what is known of containers and pods.
type sources struct {
	mapped       map[string][]aggregator.Tag // by id of a container, its first 12 digits, or uid of a pod
	mapState     os.FileInfo
	mapError     string
	ids          map[string]place // containers of the kubelet by id
	uids         map[string]*pod
	kubeletError string
	inodes       map[uint64]ref
}

func (s *sources) reset() { *s = sources{} }

func (s *sources) containers() int { return len(s.mapped) + len(s.ids) }

// tags returns the tags of what is meant, nil if nothing is known of it. complete says
// that asking again would tell no more. The map file goes before the kubelet.
func (s *sources) tags(r ref, o *Options) (tags []aggregator.Tag, complete bool) {
	if r.inode != 0 && r.container == "" {
		found, ok := s.inodes[r.inode]
		if !ok && r.pod == "" {
			return nil, false
		}
		if ok {
			found.name, r = r.name, found
		}
	}
	if r.container == "" && r.pod == "" {
		return nil, true
	}
	for _, key := range [...]string{r.container, r.container[:min(12, len(r.container))], r.pod} {
		if mapped, ok := s.mapped[key]; ok && key != "" {
			return mapped, true
		}
	}
	at, ok := s.find(r)
	if !ok {
		if r.container != "" && o.wants("container_id") {
			tags = []aggregator.Tag{{Key: "container_id", Value: r.container}}
		}
		return tags, false
	}
	return at.tags(r, o), at.container != nil || r.container == "" && r.name == ""
}

// find looks for a container, or its pod: a container that has just been started has no
// id in the kubelet's answer yet.
func (s *sources) find(r ref) (place, bool) {
	if at, ok := s.ids[r.container]; ok {
		return at, true
	}
	p := s.uids[r.pod]
	if p == nil {
		return place{}, false
	}
	at := place{pod: p}
	if r.name != "" {
		for i := range p.containers {
			if p.containers[i].name == r.name {
				at.container = &p.containers[i]
			}
		}
	}
	return at, true
}

func (o *Options) wants(tag string) bool {
	for _, t := range o.Tags {
		if t == tag {
			return true
		}
	}
	return false
}

func (at place) tags(r ref, o *Options) (tags []aggregator.Tag) {
	add := func(key, value string) {
		if value != "" {
			tags = append(tags, aggregator.Tag{Key: key, Value: value})
		}
	}
	c := container{id: r.container}
	if at.container != nil {
		c = *at.container
	}
	for _, key := range o.Tags {
		switch key {
		case "namespace":
			add(key, at.pod.namespace)
		case "pod":
			add(key, at.pod.name)
		case "workload":
			add(key, at.pod.workload)
		case "container":
			add(key, c.name)
		case "container_id":
			add(key, c.id)
		case "image":
			add(key, c.image)
		}
	}
	for _, label := range sortedKeys(o.Labels) {
		add(o.Labels[label], at.pod.labels[label])
	}
	return tags
}

// keepSources asks the sources until ctx is done: from time to time, and when
// somebody is not known to them.
func (t *Table) keepSources(ctx context.Context) {
	pause := pauseMin
	for {
		wait := askEvery
		if t.On() {
			news, missing := t.askSources(ctx)
			if pause = min(2*pause, pauseMax); news {
				pause = pauseMin
			}
			if missing {
				wait = pause
			}
		}
		again := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-again.C:
		case <-t.changed:
			pause = pauseMin
		case <-t.need:
			select {
			case <-ctx.Done():
			case <-time.After(pauseMin):
			}
		}
		if again.Stop(); ctx.Err() != nil {
			return
		}
	}
}

// askSources asks each source and answers again what was asked before. news says that
// somebody is known who was not, missing that somebody is not.
func (t *Table) askSources(ctx context.Context) (news, missing bool) {
	t.mu.Lock()
	o, state := t.options, t.sources.mapState
	inodes := false
	for _, r := range t.book.claims {
		_, found := t.sources.inodes[r.ref.inode]
		inodes = inodes || r.ref.inode != 0 && !found
	}
	t.mu.Unlock()

	mapped, state, mapErr := readMap(o.MapFile, state)
	var pods []pod
	var podErr error
	if o.Kubelet != "" {
		pods, podErr = askKubelet(ctx, &o)
	}
	var groups map[uint64]ref
	if inodes {
		groups = groupInodes(o.Cgroups)
	}
	if ctx.Err() != nil {
		return false, false
	}

	t.mu.Lock()
	defer t.mu.Unlock()
	if !o.equal(t.options) { // they were changed meanwhile
		return true, true
	}
	s := &t.sources
	t.tellLocked(&s.mapError, mapErr, "the map file of origins cannot be used; what it said before stays", "file", o.MapFile)
	t.tellLocked(&s.kubeletError, podErr, "the kubelet does not tell of its pods; what it told before stays", "kubelet", o.Kubelet)
	if mapErr == nil {
		if s.mapState = state; mapped != nil {
			s.mapped = mapped
		}
	}
	if o.Kubelet != "" && podErr == nil {
		t.stats.Asked++
		s.setPods(pods)
	}
	if groups != nil {
		s.inodes = groups
	}
	return t.answerAllLocked(time.Now().UnixNano())
}

// tellLocked logs an error that is another one than before, and its end.
func (t *Table) tellLocked(last *string, err error, text string, args ...any) {
	now := ""
	if err != nil {
		now = err.Error()
		t.stats.Failed++
	}
	switch {
	case now == *last:
	case now == "":
		t.log.Info("origins can be looked up again", args...)
	default:
		t.log.Warn(text, append(args, "error", now)...)
	}
	*last = now
}

// answerAllLocked answers again what was asked before, without its being looked up.
func (t *Table) answerAllLocked(now int64) (news, missing bool) {
	again := func(r *record) {
		checked, before := r.answer.checked, r.answer.origin
		missing = !t.answerLocked(r, now) || missing
		r.answer.checked = checked // of the process nothing new is known
		news = news || r.answer.origin != before && r.answer.origin != 0
	}
	for _, r := range t.book.processes {
		again(r)
	}
	for _, r := range t.book.claims {
		again(r)
	}
	t.publishLocked()
	return news, missing
}

func (s *sources) setPods(pods []pod) {
	s.ids, s.uids = make(map[string]place), make(map[string]*pod)
	for i := range pods {
		p := &pods[i]
		s.uids[p.uid] = p
		for j := range p.containers {
			if c := &p.containers[j]; c.id != "" {
				s.ids[c.id] = place{p, c}
			}
		}
	}
}
