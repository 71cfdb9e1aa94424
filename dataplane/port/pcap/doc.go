// Package pcap replays capture files as ports, and writes what is sent to others.
//
// Recv gives the frames of a pcap or pcapng file (Ethernet or raw IP) in the order of
// the file, as fast as it is called, or only up to the time that Admit set: a
// replay in virtual time asks Next when the next frame is due, moves its clock
// there, admits and receives. Nothing here reads a clock: what is
// sent is written with the time of the last Admit, or of the last frame received.
//
// A capture has no virtio header, so frames come without offload metadata; one of a
// sending host may hold unfinished checksums and super-packets. A port of a file
// has one queue, and no descriptor to wait on. Frames that the capture cut
// short are skipped and counted.
package pcap
