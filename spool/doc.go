// Package spool keeps bytes that survive a restart: a log of records, and for
// every upstream an outbox.
//
// # Vocabulary
//
// A record is one closed window: a Meta, and 1 to 65,535 parts of opaque bytes.
// It has a sequence, from 1, ascending, never reused; order is by sequence and
// never by time. A segment is a file of records. An outbox is one upstream's
// state: the ranges of records it is still owed (Pending), its sealed batches,
// dead letters, request times, small tables, and its ledger. The stand-in is a
// Spool in memory from which records are delivered that the disk does not take.
//
// # Rules
//
// A record or an Update whose call returned without an error is on disk,
// synced. Every byte read back has passed a CRC-32C. Losing the folder, the
// disk or a file never stops the caller: records go to a bounded log in memory,
// damaged files go to quarantine/, and Stats and the ledgers count what was
// lost. Files are never overwritten by a release that cannot read them: every
// version ever written is read for ever.
//
// The package starts no goroutine and reads no clock but in Close and for Writing; time
// comes from outside. It imports nothing of sluice. Memory that crosses its border is
// copied, where a comment does not say otherwise.
//
// # Limits
//
//	MaxBytes      256 MiB of segments, outbox and quarantine; the bound
//	Retention     6 h that records nobody is owed are kept; a wish
//	segment       32 MiB or 1 h
//	transaction   4 MiB of a record and a part; that much is in memory
//	part          its own segment when larger than one; meant to be at most 4 MiB
//	ranges        64 per upstream
//	batch         65,536 items, 16 MiB with its item table before compression
//	dead letters  32 MiB per upstream, at most an eighth of MaxBytes; the oldest go first
//	quarantine    32 MiB, the oldest go first
//	memory log    32 MiB, the oldest go first, beside the record that came last and
//	              one that is being written
//	stand-in      8 MiB of records beside it, the oldest go first
//	index         some 350 bytes a record in memory
//
// # The folder
//
//	lock               held while attached
//	agent-id           16 hexadecimal digits
//	machine            the same, a hash of Options.Machine
//	trusted            names, sizes and times of the files that are finished
//	000001.seg ...     bbolt, one bucket "records"
//	outbox.db          bbolt, buckets "spool" and "outboxes"
//	quarantine/        what was damaged, renamed
//	*.tmp              half-made files; removed at Attach
//
// # A frame
//
// The value of one part of a record, under the key sequence (8 bytes) and part
// (2 bytes), in "records" or, of a large record, in a bucket in there whose key is
// the sequence. All numbers are big endian.
//
//	 0  4  magic "SLWF"
//	 4  1  version: 1, or 2 of a record that was streamed
//	 5  1  flags: bit 0 = the record's last part; the others are 0
//	 6  2  part, from 0
//	 8  8  first sequence
//	16  8  end sequence: first+1, or more when the record stands for several
//	24  2  number of parts; 0 in those of a streamed record but the last
//	26  2  0
//	28  4  CRC-32C of the record's meta: binds the parts of one writing
//	32  4  length m of the meta; 0 but in part 0
//	36  4  length n of the body
//	40  4  CRC-32C of bytes 0 to 39 and the meta
//	44  m  meta
//	    n  body
//	    4  CRC-32C of everything before
//
// The meta; bytes behind it are for later releases and are ignored:
//
//	  0   8  window id
//	  8   8  start, ns since 1970; 0 = none
//	 16   8  width, ns
//	 24   2  flags of the window
//	 26   4  series absent from the window before
//	 30  48  samples per kind, 0 to 5
//	 78  48  series per kind
//	126  48  accepted per kind, running total
//	174  48  dropped per kind, running total
//	222   1  number of upstreams; for each of them
//	         2  length of the name, and the name
//	         8  generation of outbox.db
//	         1  number of ranges, and 16 bytes each: from, to
//
// A record of more than 4 MiB is streamed: its parts are written in several
// transactions as they come, before it is known how many there will be, and so no
// more of it is in memory. It counts from its last part on. What is behind the meta
// of an append is 8 random bytes, by which its parts are told from those of
// another attempt.
//
// A record is complete when all its parts with the same binding are there; the
// index ignores others. Of complete records that have sequences in common the one
// that stands for more counts, and among equals the one that was written later: an
// append whose error was ambiguous is repeated under the same number in a new
// segment.
//
// docs/spool.md has the records of outbox.db and what happens in each failure.
package spool
