// Package snapshot writes the state of a gateway's flows to a file and reads it again:
// flows with their counters, tracking state, labels and corrections of sequence numbers,
// expectations, and ports that are kept for who had them. Ports in use are in the flows
// that hold them.
//
// # The file
//
//	"culvert flows\n"   14 bytes
//	version             2 bytes
//	length of header    4 bytes
//	header              JSON, see Header
//	records             a byte for the kind, then so many as the header says its size is
//	end                 kind 0, then the number of records of each kind, 8 bytes each
//	digest              SHA-256 of all before it, 32 bytes
//
// Numbers outside of records are big-endian; records are as memory has them, which is
// why the header names the byte order and their sizes. A file is taken whole or not at
// all: Parse refuses one of another version or machine, with a wrong digest or count,
// or with anything behind the digest. What the records say is for the table to verify,
// one by one, with the checks of its own Check.
//
// # Flows that went on
//
// A gateway that is saved goes on, and so do its flows. A TCP flow that is restored is
// therefore not held to windows, and a helper that has not changed lengths in it reads no
// more of it: it would begin at the wrong byte.
//
// # Time
//
// Records have times of the boot clock. In the same boot they mean what they did. After
// another boot the time between is what the wall clock says has passed, and none if it
// was set back.
package snapshot
