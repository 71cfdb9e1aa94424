package dataplane

import "example.com/culvert/dataplane/packet"

func (w *Worker) fragment(p *packet.Packet) bool { return p.Flags&packet.FragmentLater == 0 }
