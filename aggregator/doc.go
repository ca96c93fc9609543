// Package aggregator turns samples into windows.
//
// # Words
//
// A [Sample] is one measurement as it arrived. It borrows: its bytes belong to
// the packet, and nothing of them is kept once Add has returned.
//
// A [Series] is kind, name and sorted tags. It owns its bytes.
//
// A [Window] is what one interval amounted to, for all series. It never changes
// once it is closed. Its state stays mergeable: counters add up, gauges keep the
// last value, distributions and sets unite. So it does not matter where windows
// were cut, nor in which order and groups they are put together later; only sums
// of fractions may differ in their last place.
//
// An [Event] is something that happened once. It borrows like a sample. Windows
// keep events one by one, in their order, and merging puts them one behind the other.
//
// # From a sample to a window
//
// A reader opens one [Intake] and hands it whole packets. The sample's spelling,
// the bytes of its name and tags as they were written, is looked up among those
// that the intake has met: that is the common case, one hash and no lock but the
// intake's own. A spelling it has not met is taken apart by the dialect's
// [Spelling] and linked to its series in the registry, which all intakes share.
// The value goes into the series' cell in the intake's table.
//
// [Aggregator.Rotate] swaps the tables for empty ones and puts the full ones
// together, by series: the live window. Values that came with a time outside of
// it have been kept aside and make windows of their own, the late ones.
//
// [Window.Parts] writes a window, [OpenReader] reads one in place, [Merge] puts
// several together series by series.
//
// # Limits
//
//	what                              bound                   past it
//	name                              255 bytes               refused, name_too_long
//	tag key, tag value                64, 200 bytes           cut between characters, flag TagCut
//	tags of a series                  100                     refused, too_many_tags
//	open series                       Options.MaxSeries       folded: the value of the tag that explodes becomes __other__
//	bytes of all keys                 512 times MaxSeries     folded
//	series of one name and kind       MaxSeriesPerMetric      folded
//	series made by folding            1,000 or MaxSeries/10,  all values become __other__, or the kind's one series __other__
//	                                  of a metric 300
//	metrics that are told as folded   100                     folded all the same
//	spellings that are remembered     4 times MaxSeries       oldest generation forgotten
//	age of a value                    Options.MaxLateness     refused, late
//	value ahead of its arrival        10 minutes              refused, future
//	series in late windows            Options.MaxSeries       refused, too_many_late
//	values a distribution keeps       100                     a sketch of 1 % relative accuracy
//	bins of a sketch                  2,048 of either sign    the lowest are put together
//	members a set keeps               Options.MaxSetMembers,  an estimate within about 2 %, 16 KiB
//	                                  1 MiB of text
//	memory of values, all together    1 KiB a series,         the window is closed early; then, of
//	                                  at least 8 MiB          distributions and sets, refused, too_much_memory
//	whole sums                        128 bits                (no process gets there)
//	sums of fractions                 ±1.8e308                stay there
//	an event, written                MaxEvent, 128 KiB       refused, event_too_large
//	events of a window               MaxEventBytes, 1 MiB    refused, too_many_events
//	a part of an encoded window       4 MiB                   another part
//
// Folding merges, so the totals of a metric stay exact. A series that no sample
// has come for leaves after 60 windows, a gauge, whose running value would be
// lost, after 8,640; and both sooner while the registry is nearly full.
//
// # Memory
//
// A window that Rotate returned is lent until [Window.Release], which gives its
// tables back for use by later windows. The bytes that Parts yields are valid
// until the next part. A [Reader] borrows the parts it was opened with for as
// long as it is used. A [Value] that a [Merger] yields is valid until the next one.
//
// # Concurrency
//
// An Aggregator is safe for use by several goroutines. An Intake takes one Add at
// a time, others wait; readers with an intake each never wait for each other,
// except on series they meet for the first time, on gauges they share and on
// values of other times. Rotate holds an intake only while it swaps tables; Configure
// and Forget hold one at a time, for no longer. A
// closed window, a Reader, a Merger and a Value are for one goroutine at a time.
//
// The package starts no goroutine and reads no clock: now always comes from
// the caller.
package aggregator
