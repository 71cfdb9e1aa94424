package upgrade

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"reflect"

	"example.com/culvert/conntrack"
	"example.com/culvert/dataplane"
	"example.com/culvert/nat/ports"
)

// Protocol is the version of what is said, and of what records mean. It is another one
// whenever either is.
const Protocol = 2

// Digest is that of the format in which flows are handed over: of the layout of their
// records, field by field, and of the reasons and helpers' records that go with them. Two
// programs with the same one mean the same by the same bytes.
func Digest() string {
	h := sha256.New()
	fmt.Fprintln(h, "protocol", Protocol)
	for _, t := range []reflect.Type{
		reflect.TypeFor[conntrack.Saved](), reflect.TypeFor[conntrack.SavedExpect](), reflect.TypeFor[ports.Saved](),
		reflect.TypeFor[dataplane.Legacy](), reflect.TypeFor[Offer](), reflect.TypeFor[Final](), reflect.TypeFor[Leave](),
	} {
		describe(h, t, "")
	}
	return hex.EncodeToString(h.Sum(nil))
}

// describe writes the layout of a type.
func describe(w io.Writer, t reflect.Type, path string) {
	fmt.Fprintln(w, path, t.Kind(), t.Size())
	switch t.Kind() {
	case reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			fmt.Fprintln(w, path, f.Name, f.Offset)
			describe(w, f.Type, path+"."+f.Name)
		}
	case reflect.Array:
		fmt.Fprintln(w, path, t.Len())
		describe(w, t.Elem(), path+"[]")
	case reflect.Slice, reflect.Pointer, reflect.Map:
		describe(w, t.Elem(), path+"*")
	}
}
