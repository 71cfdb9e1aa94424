package keep

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"golang.org/x/sys/unix"
)

// inMemory returns a folder on a tmpfs.
func inMemory(t *testing.T) string {
	t.Helper()
	root, err := os.MkdirTemp("/dev/shm", "culvert-keep-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	return filepath.Join(root, "state")
}

func open(t *testing.T, root string, r Rivals) *Folder {
	t.Helper()
	f, err := Open(root, r)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func fill(t *testing.T, f *Folder, name, text string, size int) {
	t.Helper()
	mem, err := f.Array(name, size)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Reserve(mem[:len(text)]); err != nil {
		t.Fatal(err)
	}
	copy(mem, text)
}

func closed(t *testing.T, c interface{ Close() error }) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestArraysOutliveTheirFolder(t *testing.T) {
	root := inMemory(t)
	first := open(t, root, Alone)
	if !first.InMemory() {
		t.Error("/dev/shm is not a tmpfs")
	}
	fill(t, first, "words", "here I am", 10<<20)
	if err := first.Describe("me"); err != nil {
		t.Fatal(err)
	}
	closed(t, first)
	second := open(t, root, Alone)
	left := second.Leftovers()
	if len(left) != 1 {
		t.Fatalf("%d processes have left something, want 1", len(left))
	}
	var header string
	if err := left[0].Header(&header); err != nil || header != "me" {
		t.Errorf("the header is %q, %v", header, err)
	}
	mem, err := left[0].Array("words")
	if err != nil || len(mem) != 10<<20 || string(mem[:9]) != "here I am" {
		t.Errorf("%d bytes are left, beginning with %q: %v", len(mem), mem[:min(len(mem), 9)], err)
	}
	if err := left[0].Cut("words", 9); err != nil || string(mem[:9]) != "here I am" {
		t.Errorf("cut to its length it has %q, %v", mem[:9], err)
	}
	if mem, err := left[0].Array("nothing"); err == nil {
		t.Errorf("%d bytes of an array that nobody made", len(mem))
	}
	closed(t, left[0])
	if err := second.Describe("you"); err != nil {
		t.Fatal(err)
	}
	closed(t, second)
	third := open(t, root, Alone)
	if left := third.Leftovers(); len(left) != 1 || left[0].Header(&header) != nil || header != "you" {
		t.Errorf("%d leftovers, the first of %q: want the last one alone", len(left), header)
	}
	closed(t, third)
}

// Whoever has handed over still uses its arrays for a while, which is nobody's business.
func TestFolderIsNotBusyWithWhoHasLeft(t *testing.T) {
	root := inMemory(t)
	first := open(t, root, Alone)
	mem, err := first.Array("words", 4096)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(first.Reserve(mem), first.Describe(1)); err != nil {
		t.Fatal(err)
	}
	second := open(t, root, Successor)
	if err := errors.Join(second.Describe(2), first.Leave()); err != nil {
		t.Fatal(err)
	}
	closed(t, second) // as if it were killed
	third := open(t, root, Alone)
	var header int
	if left := third.Leftovers(); len(left) == 0 || left[0].Header(&header) != nil || header != 2 {
		t.Errorf("%d leftovers, the first of %d: want that of the process that went on", len(left), header)
	}
	if err := third.Describe(3); err != nil {
		t.Fatal(err)
	}
	copy(mem, "still mine")
	closed(t, first)
	closed(t, third)
}

// A process that ends before it has taken over what was left leaves nothing itself, and
// what was left is there for the next one.
func TestUndescribedFolderIsWorthNothing(t *testing.T) {
	root := inMemory(t)
	first := open(t, root, Alone)
	if err := first.Describe(1); err != nil {
		t.Fatal(err)
	}
	closed(t, first)
	half := open(t, root, Alone)
	fill(t, half, "words", "half", 4)
	closed(t, half)
	killed := filepath.Join(root, prefix+"9999999999999999999") // with no header, and its lock is free
	if err := os.Mkdir(killed, 0o700); err != nil {
		t.Fatal(err)
	}
	var header int
	next := open(t, root, Alone)
	if left := next.Leftovers(); len(left) != 1 || left[0].Header(&header) != nil || header != 1 {
		t.Fatalf("%d leftovers, the first of %d: want that of the first process", len(left), header)
	}
	if err := next.Describe(2); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(killed); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what a process left in the middle is still there: %v", err)
	}
	if err := next.Leave(); err != nil {
		t.Fatal(err)
	}
	closed(t, next)
	if all, err := filepath.Glob(filepath.Join(root, prefix+"*")); err != nil || len(all) != 0 {
		t.Errorf("%q are left, %v", all, err)
	}
}

func TestFolderIsForOneProcess(t *testing.T) {
	root := inMemory(t)
	first := open(t, root, Alone)
	if f, err := Open(root, Alone); !errors.Is(err, ErrBusy) {
		t.Errorf("a second process gets %v, %v, want %v", f, err, ErrBusy)
	}
	second := open(t, root, Successor)
	if n := len(second.Leftovers()); n != 0 {
		t.Errorf("%d leftovers of a process that lives", n)
	}
	closed(t, second)
	closed(t, first)
}

// What a process leaves that is killed while another one takes over from it is nobody's.
func TestFolderOfAPredecessorThatDiesIsRemoved(t *testing.T) {
	root := inMemory(t)
	first := open(t, root, Alone)
	if err := first.Describe(1); err != nil {
		t.Fatal(err)
	}
	second := open(t, root, Successor)
	if err := second.Describe(2); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(first.path); err != nil {
		t.Errorf("that of a process that lives: %v", err)
	}
	closed(t, first)
	if err := second.Describe(2); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(first.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("that of a process that has died: %v, want %v", err, os.ErrNotExist)
	}
	closed(t, second)
}

// A process that was killed keeps its lock until its memory is given back.
func TestFolderOfAProcessThatIsEndingIsWaitedFor(t *testing.T) {
	root := inMemory(t)
	dying := open(t, root, Alone)
	if err := dying.Describe("gone"); err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() {
		next, err := Open(root, Alone)
		if err == nil {
			if n := len(next.Leftovers()); n != 1 {
				t.Errorf("%d processes have left something, want 1", n)
			}
			err = next.Close()
		}
		got <- err
	}()
	for held := false; !held; { // the next one is there
		gate, err := lockFile(filepath.Join(root, lockName), unix.LOCK_EX|unix.LOCK_NB)
		if held = errors.Is(err, unix.EWOULDBLOCK); err == nil {
			closed(t, gate)
		}
	}
	closed(t, dying)
	if err := <-got; err != nil {
		t.Error(err)
	}
}

func TestFolderThatOthersMayWriteToIsRefused(t *testing.T) {
	for mode, want := range map[os.FileMode]error{0o700: nil, 0o755: nil, 0o770: ErrOthers, 0o777: ErrOthers, 0o777 | os.ModeSticky: ErrOthers} {
		root := inMemory(t)
		if err := errors.Join(os.Mkdir(root, 0o700), os.Chmod(root, mode)); err != nil {
			t.Fatal(err)
		}
		f, err := Open(root, Alone)
		if !errors.Is(err, want) {
			t.Errorf("mode %o: %v, want %v", mode, err, want)
		}
		if err == nil {
			closed(t, f)
		}
	}
}

// What has the name of a file and is none is an error at once, whoever put it there.
func TestLeftoverThatIsNoFileHoldsUpNobody(t *testing.T) {
	root := inMemory(t)
	first := open(t, root, Alone)
	fill(t, first, "words", "here I am", 1<<20)
	if err := first.Describe("me"); err != nil {
		t.Fatal(err)
	}
	closed(t, first)
	next := open(t, root, Alone)
	defer closed(t, next)
	left := next.Leftovers()[0]
	for what, make := range map[string]func(path string) error{
		"a pipe":   func(path string) error { return unix.Mkfifo(path, 0o600) },
		"a link":   func(path string) error { return os.Symlink("/dev/zero", path) },
		"a folder": func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		for _, name := range []string{headerName, "words"} {
			path := filepath.Join(left.Path(), name)
			if err := errors.Join(os.RemoveAll(path), make(path)); err != nil {
				t.Fatal(err)
			}
		}
		var header string
		if err := left.Header(&header); err == nil {
			t.Errorf("%s is read as header %q", what, header)
		}
		if mem, err := left.Array("words"); err == nil {
			t.Errorf("%s is an array of %d bytes", what, len(mem))
		}
	}
}

func TestRoomThatIsMissingIsCounted(t *testing.T) {
	f := open(t, inMemory(t), Alone)
	defer closed(t, f)
	if lacking, err := f.Lacking(); err != nil || lacking != 0 {
		t.Errorf("%d bytes are missing without arrays, %v", lacking, err)
	}
	mem, err := f.Array("huge", 1<<44) // 16 TiB of addresses
	if err != nil {
		t.Fatal(err)
	}
	lacking, err := f.Lacking()
	if err != nil || lacking <= 1<<42 || lacking >= 1<<44 {
		t.Errorf("%d bytes are missing for 16 TiB, %v", lacking, err)
	}
	if err := f.Reserve(mem[1<<20 : 3<<20]); err != nil {
		t.Error(err)
	}
	mem[1<<20], mem[3<<20-1] = 1, 1
}

func TestLayoutsDifferByNamesTypesAndOffsets(t *testing.T) {
	type a struct{ X, Y uint32 }
	type b struct{ Y, X uint32 }
	type c struct {
		X uint32
		Y int32
	}
	type d struct{ X, Y uint32 }
	type e struct{ X [2]a }
	seen := map[string]reflect.Type{}
	for _, typ := range []reflect.Type{reflect.TypeFor[a](), reflect.TypeFor[b](), reflect.TypeFor[c](), reflect.TypeFor[e](), reflect.TypeFor[[2]a]()} {
		if other := seen[Layout(typ)]; other != nil {
			t.Errorf("%v is like %v", typ, other)
		}
		seen[Layout(typ)] = typ
	}
	if Layout(reflect.TypeFor[a]()) != Layout(reflect.TypeFor[d]()) {
		t.Error("two types of the same fields differ")
	}
	defer func() {
		if recover() == nil {
			t.Error("a pointer can outlive its process")
		}
	}()
	Layout(reflect.TypeFor[*int]())
}
