// Package fluxtest is a strict fake of the Flux metrics API for tests, in the
// manner of net/http/httptest. By its dialect it is one of Pulse or DataCat, too.
//
// The fake does three things at once. It answers like the published (hosted) API
// or like the open-source (self-hosted) server. It judges every call against the
// contract of docs/protocols.md, "What goes upstream", and keeps each breach as a
// [Violation]; a server made by [New] fails its test for them when it is closed.
// And it misbehaves on request: a [Fault] answers wrongly, late or not at all,
// with the data stored or not, so that a test can tell loss from duplication.
//
// What was stored is the ledger: [Server.Rows], [Server.CounterTotal] and their
// like. It says what the upstream holds whatever the client was told.
//
// # Vocabulary
//
//   - call: one HTTP request that reached the handler. Calls are numbered from 1 in
//     the order of arrival, whatever became of them.
//   - batch call: a POST to a path that ends in /batch; single call: another POST;
//     query: a GET below /api/v1/metrics.
//   - row: one stored metric. A batch is stored whole or not at all, as the server's
//     one INSERT does; nothing is deduplicated, as the server has no unique key.
//
// # Time
//
// The server reads the clock only through Options.Now and starts no timer and no
// goroutine to serve a call, except where a fault is itself about time (Slow, Delay,
// Refuse) or a call finds another in flight, which is then given a second to end. Together with Options.InProcess and [Transport] it runs in a
// testing/synctest bubble.
//
// # Memory
//
// All returned slices are the caller's. The Tags maps in them are shared with the
// server and must not be changed. Every row is kept unless Options.KeepRows says
// otherwise, about 200 bytes each.
//
// The package imports only the standard library, nothing else of this module.
package fluxtest
