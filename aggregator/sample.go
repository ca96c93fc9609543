package aggregator

// Kind is how the values of a series are put together. The numbers are part
// of the on-disk format.
type Kind uint8

const (
	Counter      Kind = 1 // values add up
	Gauge        Kind = 2 // the last value stays
	Distribution Kind = 3 // every value counts, as a DDSketch beyond a few
	Set          Kind = 4 // different members are counted
	Events       Kind = 5 // not aggregated: kept one by one, in order; no series has this kind

	// Kinds is the length of an array that is indexed by Kind; index 0 is not used.
	Kinds = 6
)

var kindNames = [Kinds]string{"none", "counter", "gauge", "distribution", "set", "event"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "unknown"
}

// Reason says why something that arrived was not taken. Each refusal has
// exactly one; its text is the `reason` label of sluice_rejected_total.
type Reason uint8

const (
	Taken Reason = iota // not refused

	// Found by a parser, in the order of its checks.
	MalformedLine
	BadType
	BadName
	NameTooLong
	ReservedName
	BadValue
	NonFinite
	BadRate
	BadTimestamp
	BadEvent
	BadServiceCheck
	Truncated // cut off by the read buffer or the end of a stream
	BadFrame

	// Found when a spelling is named, so in Intake.Add.
	TooManyTags
	ClientTelemetry
	DroppedByRule // what the configuration asks for, and no fault of the sender's

	// Found when a value is put into its window, so in Intake.Add.
	Late
	Future
	TooManyLate   // series with values of other times than now
	TooMuchMemory // the values of all series together

	// Found when an event is put into its window, so in Intake.AddEvent.
	EventTooLarge // over MaxEvent
	TooManyEvents // the window has MaxEventBytes

	// Reasons is the length of an array that is indexed by Reason.
	Reasons
)

var reasonNames = [Reasons]string{
	"", "malformed_line", "bad_type", "bad_name", "name_too_long", "reserved_name",
	"bad_value", "non_finite", "bad_rate", "bad_timestamp", "bad_event",
	"bad_service_check", "truncated", "bad_frame", "too_many_tags",
	"client_telemetry", "dropped_by_rule", "late", "future", "too_many_late", "too_much_memory",
	"event_too_large", "too_many_events",
}

func (r Reason) String() string {
	if r < Reasons {
		return reasonNames[r]
	}
	return "unknown"
}

// Flags of a Sample.
const (
	// Plus and Minus: the number was written with that sign. Only gauges
	// care: a sign can make the value a change (docs/protocols.md).
	Plus uint8 = 1 << iota
	Minus
	// Whole: a counter's value is exactly Sample.Whole, and Value is not used.
	Whole
	// Same: Head, Tags and Kind are those of the sample before this one in the
	// same batch (packed values), so the look-up need not be repeated.
	Same
	// TagCut is set by Intake.Add: a tag key or value was longer than its limit
	// and was cut.
	TagCut
)

// A Sample is one measurement as it arrived. It borrows: its slices point
// into the packet and are valid only until Intake.Add returns.
//
// Head and Tags are the sample's spelling: the bytes as the program wrote
// them, less the value. Together with the dialect, Kind and Origin they decide which
// series is meant, and the aggregator remembers which; only a spelling it has
// not met is taken apart, by Spelling.
type Sample struct {
	Head   []byte // the name as written, with any tags inside it
	Tags   []byte // the tags as written
	Member []byte // of a set, valid UTF-8 without control characters; else nil

	Kind    Kind
	Flags   uint8
	Refused Reason // set by Intake.Add when the sample was not taken

	// Origin stands for tags that come with where the sample was sent from; the Spelling
	// knows which. They are the same for ever. 0 is none.
	Origin uint32

	// Value is finite. Of a counter it is already divided by the sample rate.
	Value float64
	// Whole is a counter's value when Flags has Whole.
	Whole int64
	// Weight is how many measurements a distribution's value stands for, 1/rate:
	// finite and at least 1. 0 means 1.
	Weight float64
	// Time is when the value was measured, in nanoseconds since 1970; 0 means now.
	Time int64
}

// A Spelling knows how one dialect writes names and tags.
type Spelling interface {
	// Name puts the name and the tags of s, normalised, into dst, which is
	// empty apart from its Kind. It answers why the spelling cannot be taken,
	// or Taken; the answer is remembered, so it may depend on s.Head, s.Tags,
	// s.Kind and s.Origin alone. It must not keep dst or s. Calls may be concurrent.
	Name(dst *Key, s *Sample) Reason
}
