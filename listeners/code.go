package listeners

import (
	"net/http"

	"sluice/aggregator"
)

// A Code says why an item or a request that came over HTTP was not taken. Its
// text is the "code" of the answer and the `reason` label of
// sluice_rejected_total. Items count under the first ones, requests that were
// refused as a whole under the rest.
type Code uint8

const (
	Accepted Code = iota // not refused

	InvalidItem
	MissingName
	NameTooLong
	ReservedName
	InvalidType
	InvalidValue
	InvalidTimestamp
	InvalidTags
	TooManyTags
	EventTooLarge
	Overloaded // of a request, too
	Stopping   // the same

	InvalidJSON
	NoMetrics
	NoEvents
	BatchTooLarge
	BodyTooLarge
	UnsupportedMediaType
	NotReady // what a request needs is not configured or away
	SessionNotFound
	BodyTimeout

	// Codes is the length of an array that is indexed by Code.
	Codes
)

// codeTexts has code, status of a request that fails with it, and message.
var codeTexts = [Codes]struct {
	name    string
	status  int
	message string
}{
	Accepted:             {"", http.StatusCreated, ""},
	InvalidItem:          {"invalid_item", http.StatusBadRequest, "Item must be a JSON object"},
	MissingName:          {"missing_name", http.StatusBadRequest, "Name is required and must be a string"},
	NameTooLong:          {"name_too_long", http.StatusBadRequest, "Name exceeds 255 bytes"},
	ReservedName:         {"reserved_name", http.StatusBadRequest, "Names that start with sluice. are the agent's own"},
	InvalidType:          {"invalid_type", http.StatusBadRequest, "Type must be gauge/counter/distribution/set"},
	InvalidValue:         {"invalid_value", http.StatusBadRequest, "Value must be a finite number (text, number or boolean for sets)"},
	InvalidTimestamp:     {"invalid_timestamp", http.StatusBadRequest, "Timestamp must be RFC 3339 or Unix time, not older than aggregate.max_lateness and at most 10 minutes ahead"},
	InvalidTags:          {"invalid_tags", http.StatusBadRequest, "Tags must be an object, or an array of strings"},
	TooManyTags:          {"too_many_tags", http.StatusBadRequest, "More than 100 tags (10 for Pulse)"},
	EventTooLarge:        {"event_too_large", http.StatusRequestEntityTooLarge, "The event exceeds 128 KiB"},
	Overloaded:           {"overloaded", http.StatusTooManyRequests, "The agent has too much in hand, try again"},
	Stopping:             {"stopping", http.StatusServiceUnavailable, "The agent is stopping"},
	InvalidJSON:          {"invalid_json", http.StatusBadRequest, "The body is not valid JSON of the documented shape"},
	NoMetrics:            {"no_metrics", http.StatusBadRequest, "No metrics provided"},
	NoEvents:             {"no_events", http.StatusBadRequest, "No events provided"},
	BatchTooLarge:        {"batch_too_large", http.StatusRequestEntityTooLarge, "Batch exceeds the limit of items"},
	BodyTooLarge:         {"body_too_large", http.StatusRequestEntityTooLarge, "The body exceeds 4 MiB"},
	UnsupportedMediaType: {"unsupported_media_type", http.StatusUnsupportedMediaType, "Send the header Content-Type: application/json, and no Content-Encoding or gzip"},
	NotReady:             {"unavailable", http.StatusServiceUnavailable, "This needs an upstream, which is not configured or away"},
	SessionNotFound:      {"session_not_found", http.StatusNotFound, "session not found"},
	BodyTimeout:          {"body_timeout", http.StatusRequestTimeout, "The body did not arrive in time or was cut off"},
}

func (c Code) String() string { return codeTexts[c].name }

// Status is the status of an answer to a request that failed with c.
func (c Code) Status() int { return codeTexts[c].status }

// Message is what a person is told.
func (c Code) Message() string { return codeTexts[c].message }

// codeOf translates what an intake says.
func codeOf(r aggregator.Reason) Code {
	switch r {
	case aggregator.Taken:
		return Accepted
	case aggregator.TooManyTags:
		return TooManyTags
	case aggregator.Late, aggregator.Future:
		return InvalidTimestamp
	case aggregator.NameTooLong:
		return NameTooLong
	case aggregator.BadName, aggregator.BadEvent:
		return MissingName
	case aggregator.EventTooLarge:
		return EventTooLarge
	}
	return Overloaded // series with values of other times, events of a window
}
