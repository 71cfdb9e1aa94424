package keep

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"reflect"
)

// Layout returns a digest of how values of some types lie in memory: names, kinds and
// offsets of all fields. Types must have no pointers: it panics.
func Layout(types ...reflect.Type) string {
	h := sha256.New()
	for _, t := range types {
		describe(h, t)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func describe(w io.Writer, t reflect.Type) {
	switch t.Kind() {
	case reflect.Struct:
		fmt.Fprintf(w, "struct %d {", t.Size())
		for i := range t.NumField() {
			f := t.Field(i)
			fmt.Fprintf(w, "%s %d ", f.Name, f.Offset)
			describe(w, f.Type)
		}
		fmt.Fprint(w, "}")
	case reflect.Array:
		fmt.Fprintf(w, "[%d]", t.Len())
		describe(w, t.Elem())
	case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		fmt.Fprintf(w, "%v;", t.Kind())
	default:
		panic(fmt.Sprintf("keep: %v cannot outlive the process", t))
	}
}
