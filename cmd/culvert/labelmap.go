package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"example.com/culvert/control/api"
)

// labelFile is where the names of labels are, a bit and a name a line.
const labelFile = "/etc/xtables/connlabel.conf"

// labelMap is the file with the names of labels, read when it is needed. Without the
// file, labels have no names.
type labelMap struct {
	path string // empty: labelFile
	read api.LabelNames
	note string // why it could not be read
}

func (m *labelMap) names() api.LabelNames {
	if m.read != nil {
		return m.read
	}
	m.read = make(api.LabelNames)
	f, err := os.Open(cmp.Or(m.path, labelFile))
	if err != nil {
		m.note = "nfct_labelmap_new: " + strings.ToUpper(cause(err)[:1]) + cause(err)[1:]
		return m.read
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line, _, _ := strings.Cut(lines.Text(), "#")
		words := strings.Fields(line)
		if len(words) != 2 {
			continue
		}
		if bit, err := strconv.ParseUint(words[0], 0, 7); err == nil {
			m.read[int(bit)] = words[1]
		}
	}
	return m.read
}

// cause is what the system said, without the path.
func cause(err error) string {
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	return err.Error()
}

// bits returns the labels that a comma-separated list names.
func (m *labelMap) bits(list string) (bits []int, err error) {
	byName := make(map[string]int)
	for bit, name := range m.names() {
		byName[name] = bit
	}
	for name := range strings.SplitSeq(list, ",") {
		bit, ok := byName[name]
		if !ok {
			return nil, fmt.Errorf("unknown label '%s'", name)
		}
		bits = append(bits, bit)
	}
	return bits, nil
}
