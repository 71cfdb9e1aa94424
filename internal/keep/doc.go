// Package keep has memory in files that outlive the process: what a table writes there
// is still there when the process was killed, and the next one reads it.
//
// # Folders
//
// A gateway is given a folder. In it each process makes one of its own, "flows.N" with N
// from the boot clock, which has a file for each array and is locked as long as the process
// lives, however that ends. A file is an array as memory has it, mapped shared: who
// writes to the array has written to the file, and nobody but the kernel has to be
// alive for that. On a tmpfs it never leaves memory.
//
// A folder without a header says nothing: it is of a process that ended before it had
// taken over what its predecessor left (Describe). So a process that is killed while it
// reads does no harm; the next one finds the same leftover.
//
// # Room
//
// A store to a page that a full file system has no room for would kill the process. So
// nothing may be written to an array that Reserve has not provided room for: it fails
// when there is none.
package keep
