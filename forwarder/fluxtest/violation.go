package fluxtest

import (
	"fmt"
	"slices"
)

// A Rule is one clause of the contract that a client can break.
type Rule string

// The rules, with what breaks each.
const (
	RuleRate         Rule = "rate"          // too many batch calls in 60 s
	RuleQueryRate    Rule = "query_rate"    // too many queries in 60 s
	RuleSingleRate   Rule = "single_rate"   // too many single calls in 60 s
	RuleItems        Rule = "items"         // more than MaxItems in a call
	RuleEmpty        Rule = "empty"         // a batch without items
	RuleBody         Rule = "body"          // body over MaxBody, or encoded
	RuleJSON         Rule = "json"          // not JSON, not UTF-8, or of another shape
	RuleMember       Rule = "member"        // an unknown or repeated member
	RuleName         Rule = "name"          // missing, empty, over 255 bytes, or holding NUL
	RuleType         Rule = "type"          // not gauge, counter, distribution or set
	RuleTwoTypes     Rule = "two_types"     // one name with two types
	RuleValue        Rule = "value"         // missing, not finite, or a string where a number belongs
	RuleTimestamp    Rule = "timestamp"     // not RFC 3339 UTC with milliseconds and Z
	RuleTags         Rule = "tags"          // not an object of strings without NUL
	RuleStringBatch  Rule = "string_batch"  // a string value in a batch to a self-hosted server
	RuleMixed        Rule = "mixed"         // metrics and events in one call
	RuleHeader       Rule = "header"        // Content-Type, Accept or User-Agent
	RuleKey          Rule = "key"           // wrong or missing bearer key
	RuleConcurrent   Rule = "concurrent"    // two calls in flight
	RuleRedirect     Rule = "redirect"      // a redirect followed
	RuleTwice        Rule = "twice"         // one Sluice-Batch value stored twice
	RuleChangedBatch Rule = "changed_batch" // one Sluice-Batch value sent with two contents
	RuleTotal        Rule = "total"         // a running total that becomes smaller
	RulePath         Rule = "path"          // unknown path, method or query parameter value
	RuleListen       Rule = "listen"        // our own: the listener could not be opened again
)

// A Violation is one breach of the contract.
type Violation struct {
	Rule    Rule
	Request int // the number of the call
	Item    int // index in the batch, -1 when it concerns the whole call
	Detail  string
}

// String gives the violation in one line.
func (v Violation) String() string {
	if v.Item < 0 {
		return fmt.Sprintf("%s: call %d: %s", v.Rule, v.Request, v.Detail)
	}
	return fmt.Sprintf("%s: call %d item %d: %s", v.Rule, v.Request, v.Item, v.Detail)
}

// Violations returns what was recorded so far and not taken.
func (s *Server) Violations() []Violation {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.violations)
}

// TakeViolations returns the violations and forgets them, for tests that provoke
// them on purpose.
func (s *Server) TakeViolations() []Violation {
	s.mu.Lock()
	defer s.mu.Unlock()
	vs := s.violations
	s.violations = nil
	return vs
}

// violateLocked records a breach unless its rule is allowed.
func (s *Server) violateLocked(rule Rule, request, item int, format string, args ...any) {
	if slices.Contains(s.opts.Allow, rule) {
		return
	}
	s.violations = append(s.violations, Violation{rule, request, item, fmt.Sprintf(format, args...)})
}

func (s *Server) violate(rule Rule, request, item int, format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.violateLocked(rule, request, item, format, args...)
}
