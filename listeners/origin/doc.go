// Package origin tells which container has sent something, and which tags that
// brings along.
//
// # Words
//
// A process is asked for by its number, as the kernel tells it of whoever sends to a
// Unix socket; its control group names its container. A claim is what a client says
// of itself: the fields c: and e: of DogStatsD, and the tag dd.internal.entity_id. An
// origin is a number for a list of tags that never changes: another list has another
// number, and no number is given out twice. 0 is no origin.
//
// # What is done where
//
// Readers ask a [Table] and never wait: it answers what is known at that moment. What
// is not known is looked up by [Table.Run], and until then what arrives has no
// origin. Nothing is held back for it.
//
//	reader ──Process, Claim──▶ what is known          published as a whole
//	              │ not known                               ▲
//	              ▼                                         │
//	          questions ──▶ /proc/PID/cgroup ──▶ container ─┴─▶ map file, kubelet
//
// # Limits
//
//	processes, claims  MaxAnswers each; those go that nobody knows, then those unused for longest
//	claim              MaxClaim bytes
//	questions waiting  maxQuestions; one beyond is asked again with the next packet
//	look-ups           lookBatch every lookPause
//	containers, pods   maxContainers of the kubelet's answer, which has at most maxAnswer bytes
//	map file           maxMap bytes
//	control groups     maxGroups folders are looked at for inodes
//
// An answer holds for fresh and is then looked up again when it is used; unused, it is
// forgotten after idle.
package origin
