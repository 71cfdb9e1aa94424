package ipfix

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// decoder is a collector that can be read in a minute. It knows no template before it
// is told, and takes no set that does not add up.
type decoder struct {
	templates map[uint16][][2]uint16 // by id: numbers and lengths of elements
	next      uint32                 // sequence number that the next message should have
	missed    uint32                 // records that the sequence numbers say are missing
	records   []record
	withdrawn int
}

// record is the values of one data record by number of the element.
type record map[uint16]uint64

// bytes of elements that do not fit into a number are kept beside.
type message struct {
	domain, exported, sequence uint32
	values                     []record
	addresses                  []map[uint16]string
}

var errMalformed = errors.New("malformed")

func (d *decoder) read(b []byte) (m message, err error) {
	if len(b) < 16 || binary.BigEndian.Uint16(b) != 10 || int(binary.BigEndian.Uint16(b[2:])) != len(b) {
		return m, fmt.Errorf("%w: header % x of %d bytes", errMalformed, b[:min(len(b), 16)], len(b))
	}
	m.exported, m.sequence, m.domain = binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint32(b[12:])
	d.missed += m.sequence - d.next
	for b = b[16:]; len(b) > 0; {
		if len(b) < 4 {
			return m, fmt.Errorf("%w: %d bytes after the last set", errMalformed, len(b))
		}
		id, length := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:]))
		if length < 4 || length > len(b) {
			return m, fmt.Errorf("%w: a set of %d bytes where %d are left", errMalformed, length, len(b))
		}
		set := b[4:length]
		b = b[length:]
		switch {
		case id == 2:
			err = d.readTemplates(set)
		case id >= 256:
			err = d.readRecords(&m, id, set)
		default:
			err = fmt.Errorf("%w: set %d", errMalformed, id)
		}
		if err != nil {
			return m, err
		}
	}
	d.next = m.sequence + uint32(len(m.values))
	d.records = append(d.records, m.values...)
	return m, nil
}

func (d *decoder) readTemplates(set []byte) error {
	for len(set) > 0 {
		if len(set) < 4 {
			return fmt.Errorf("%w: a template of %d bytes", errMalformed, len(set))
		}
		id, n := binary.BigEndian.Uint16(set), int(binary.BigEndian.Uint16(set[2:]))
		set = set[4:]
		if n == 0 && id == 2 {
			d.withdrawn += len(d.templates)
			d.templates = nil
			continue
		}
		if id < 256 || n == 0 || len(set) < 4*n {
			return fmt.Errorf("%w: template %d of %d elements in %d bytes", errMalformed, id, n, len(set))
		}
		var t [][2]uint16
		size := 0
		for i := range n {
			t = append(t, [2]uint16{binary.BigEndian.Uint16(set[4*i:]), binary.BigEndian.Uint16(set[4*i+2:])})
			size += int(t[i][1])
		}
		if size == 0 {
			return fmt.Errorf("%w: template %d of nothing", errMalformed, id)
		}
		set = set[4*n:]
		if d.templates == nil {
			d.templates = map[uint16][][2]uint16{}
		}
		d.templates[id] = t
	}
	return nil
}

func (d *decoder) readRecords(m *message, id uint16, set []byte) error {
	t := d.templates[id]
	if t == nil {
		return fmt.Errorf("%w: records of template %d, which nobody told", errMalformed, id)
	}
	for len(set) > 0 {
		r, a := record{}, map[uint16]string{}
		for _, e := range t {
			n := int(e[1])
			if len(set) < n {
				return fmt.Errorf("%w: a record of template %d is cut", errMalformed, id)
			}
			var v uint64
			for _, c := range set[:n] {
				v = v<<8 | uint64(c)
			}
			r[e[0]] = v
			a[e[0]] = string(set[:n])
			set = set[n:]
		}
		m.values = append(m.values, r)
		m.addresses = append(m.addresses, a)
	}
	return nil
}
