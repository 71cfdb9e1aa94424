// Package twin holds the hot path of the connection tracker, written a second
// time in C, and a test that lets both take turns over the same flows. The ratio
// says what the language costs, on whatever machine and beside whatever else
// runs there: times do not.
//
// testdata/twin.c has the layout of package conntrack (buckets of a cache line, records of
// three, tuples of five words, keyed hash) and does its work for packets of
// established UDP flows: hash, bucket, comparison, expiry, status, owner, timeout,
// counters, time. It has no batch begin, no expiry walk and no other way than the
// usual one, and leaves to the compiler whether hashes are computed side by side.
package twin
