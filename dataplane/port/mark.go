package port

// Marks (skb->mark) that drivers and package own agree on.
const (
	// ReinjectMark is on frames that the gateway gives to the kernel of its own
	// namespace. They enter an owned interface as if they had been received; packet
	// sockets ignore them, ownership lets them pass.
	ReinjectMark uint32 = 0x43756c76 // "Culv"

	// OursMark is on frames that the gateway sends through the interface's queueing
	// discipline, where ownership would drop them. Frames that bypass it need none.
	OursMark uint32 = 0x43756c74
)
