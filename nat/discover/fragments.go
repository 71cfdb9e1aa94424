package discover

import "slices"

// pieceLen is the length of the fragments that hosts make.
const pieceLen = 1200

// fragments finds out in which orders fragmented datagrams pass.
func (p *prober) fragments(r *Fragments) {
	for i, from := range []Side{Inside, Outside} {
		r.InOrder[i] = p.inPieces(from, func([][]byte) {})
		r.OutOfOrder[i] = p.inPieces(from, slices.Reverse)
	}
	p.forget()
}

// inPieces sends a datagram in fragments and reports whether all of it arrived.
func (p *prober) inPieces(from Side, arrange func([][]byte)) bool {
	f, ok := p.open(udp, p.inside(0), p.servers()[0], lasting)
	if !ok {
		return false
	}
	d := &datagram{proto: udp, src: f.in, dst: f.out}
	if from == Outside {
		d.src, d.dst = f.out, f.ext
	}
	p.mark(d)
	d.data = append(d.data, make([]byte, 3*pieceLen)...)
	pieces := d.fragments(p.stamp>>8, pieceLen)
	arrange(pieces)
	for _, ip := range pieces {
		p.net.Send(from, ip)
	}
	got, ok := p.find(1-from, func(got *datagram) bool { return d.is(got) })
	if !ok || len(got.data) != len(d.data) {
		return false
	}
	if from == Inside {
		return got.src == f.ext && got.dst == f.out
	}
	return got.src == f.out && got.dst == f.in
}

// tooLong is longer than what any Ethernet carries.
const tooLong = 12000

// sizes finds out what becomes of packets that cannot go on.
func (p *prober) sizes(r *Sizes) {
	f, ok := p.open(udp, p.inside(0), p.servers()[0], lasting)
	if !ok {
		return
	}
	p.forget()
	about := func(d *datagram, m message) (*datagram, bool) {
		p.send(Inside, d)
		return p.find(Inside, func(got *datagram) bool { return got.message == m && d.is(got.about) && got.about.src == f.in })
	}
	d := &datagram{proto: udp, src: f.in, dst: f.out, dontFrag: true}
	p.mark(d)
	d.data = append(d.data, make([]byte, tooLong)...)
	if got, ok := about(d, tooBig); ok {
		r.MTU = got.mtu
	}
	p.mark(d)
	d.dontFrag, d.data = false, append(d.data, make([]byte, tooLong)...)
	got, ok := p.pass(Inside, Outside, d)
	r.Fragmented = ok && p.split[Outside] > 0 && len(got.data) == len(d.data)
	p.mark(d)
	d.ttl = 1
	_, r.TimeExceed = about(d, timeExceeded)
	p.forget()
}
