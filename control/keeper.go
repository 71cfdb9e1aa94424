package control

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"example.com/culvert/alg"
	"example.com/culvert/conntrack"
	"example.com/culvert/control/api"
	"example.com/culvert/control/snapshot"
	"example.com/culvert/dataplane"
	"example.com/culvert/internal/keep"
	"example.com/culvert/rules/config"
)

// keeper is what of a gateway outlives its process, and what the process before it has
// left. The zero value is that of a gateway without conntrack.state.
type keeper struct {
	folder *keep.Folder
	left   *leftover // until recall
	result *api.Recalled
}

// leftover is what a process has left that was killed, or that ended.
type leftover struct {
	files   *keep.Leftover
	image   *dataplane.Image
	present []endpoint
	lost    *losses // of present
}

// stateVersion is another one whenever the meaning of what is kept is, though it lies in
// memory as before.
const stateVersion = 1

// stateHeader says what the files of a process are worth to another.
type stateHeader struct {
	Version int           `json:"version"`
	Layout  string        `json:"layout"`
	Boot    string        `json:"boot"`
	Clock   time.Duration `json:"clock"` // of the boot, when the gateway began; to tell the files apart
	Program string        `json:"program"`
	Held    bool          `json:"held"` // nobody else gets packets of the flows when the process ends

	Present []endpoint `json:"present,omitempty"` // flows need its addresses
}

// Names of helpers by number, as they are kept.
const (
	helpersName = "helpers"
	maxHelpers  = 1 << 12
)

type helperName [32]byte

// stateDir returns the folder for what outlives the process, "" if nothing does.
func (g *Gateway) stateDir() string { return cmp.Or(g.opts.State, g.cfg.Conntrack.State) }

// openTable makes the table, in the folder that is configured. Flows that a
// predecessor left there are ready for recall then.
func (g *Gateway) openTable(table conntrack.Config, helpers *alg.Set) (err error) {
	dir := g.stateDir()
	if dir == "" {
		g.table, err = conntrack.New(table)
		return err
	}
	for given := ""; ; { // up
		err := g.openState(dir, helpers)
		if err == nil {
			table.Memory = g.keeper.folder
			g.table, err = conntrack.New(table)
		}
		if err == nil {
			g.keeper.result.Refused = cmp.Or(given, g.keeper.result.Refused)
			return nil
		}
		err = fmt.Errorf("conntrack.state: %w", err)
		if g.keeper.folder == nil || !errors.Is(err, unix.ENOSPC) {
			return errors.Join(err, g.keeper.close())
		}
		// To forward packets comes first.
		removed, e := g.keeper.folder.Forget()
		if !removed || e != nil {
			return errors.Join(err, e, g.keeper.close())
		}
		given = err.Error()
		g.log.Error("flows of the last process are given up: there is no room for them beside new ones", "folder", dir, "error", err)
		if err := g.keeper.close(); err != nil {
			return err
		}
	}
}

// openState opens the folder, looks at what is there, which gives back some room, and
// takes room for the names of helpers.
func (g *Gateway) openState(dir string, helpers *alg.Set) error {
	rivals := keep.Alone
	if g.heir != nil {
		rivals = keep.Successor
	}
	folder, err := keep.Open(dir, rivals)
	if err != nil {
		return err
	}
	g.keeper = keeper{folder: folder, result: &api.Recalled{}}
	if g.heir == nil { // it has the flows from who lives
		g.findLeft()
	}
	names, err := folder.Array(helpersName, maxHelpers*len(helperName{}))
	if err == nil {
		err = folder.Reserve(names)
	}
	if err != nil {
		return err
	}
	helpers.OnNumber(func(number uint32, name string) {
		if number < maxHelpers {
			copy(names[int(number)*len(helperName{}):][:len(helperName{})-1], name)
		} else {
			g.log.Warn("a flow with this helper has none after a restart: rules had too many different helpers and options", "helper", name)
		}
	})
	return nil
}

// findLeft looks for flows that can be taken over.
func (g *Gateway) findLeft() {
	for _, files := range g.keeper.folder.Leftovers() {
		left, err := readState(files)
		if err == nil {
			g.keeper.left = left
			g.keeper.result.Refused = ""
			break
		}
		g.log.Warn("flows of the last process are not taken over", "folder", files.Path(), "error", err)
		g.keeper.result.Refused = err.Error()
		_ = files.Close() // address space
	}
}

// readState views what a process has left. An error says why nobody can.
func readState(files *keep.Leftover) (*leftover, error) {
	here, err := stateHere()
	if err != nil {
		return nil, err
	}
	var h stateHeader
	if err := files.Header(&h); err != nil {
		return nil, err
	}
	switch {
	case h.Boot != here.Boot:
		return nil, errors.New("they are of another boot")
	case h.Version != here.Version, h.Layout != here.Layout:
		return nil, fmt.Errorf("version %s keeps flows in another way than %s", h.Program, here.Program)
	}
	image, err := dataplane.Remains(files.Array, files.Cut)
	if err != nil {
		return nil, err
	}
	names, err := files.Array(helpersName)
	if err != nil {
		return nil, err
	}
	for size := len(helperName{}); len(names) >= size; names = names[size:] {
		name, _, _ := strings.Cut(string(names[:size]), "\x00")
		image.Helpers = append(image.Helpers, name)
	}
	image.Moved = !h.Held
	return &leftover{files: files, image: image, present: h.Present}, nil
}

// stateHere returns the header of this process, Held apart.
func stateHere() (stateHeader, error) {
	at, err := snapshot.Here(Version())
	return stateHeader{Version: stateVersion, Layout: dataplane.Layout(), Boot: at.Boot, Clock: at.Clock, Program: at.Program}, err
}

// recall takes over the flows that the last process left, before the first packet.
func (g *Gateway) recall() error {
	if g.keeper.left == nil {
		return nil
	}
	return g.recallLeft(g.keeper.left)
}

// bequeath makes what this process leaves that which its successor reads, and no longer
// what the last one has left. One that takes over from another that lives does so when
// that cannot go on any more.
func (g *Gateway) bequeath() error {
	k := &g.keeper
	if k.folder == nil {
		return nil
	}
	err := g.describe()
	if err != nil {
		return err
	}
	if k.left != nil {
		err = k.left.files.Close()
		k.left = nil
	}
	if !k.folder.InMemory() {
		g.log.Warn("conntrack.state is not on a tmpfs: packets wait while the kernel writes flows to a disk", "folder", g.stateDir())
	}
	if lacking, e := k.folder.Lacking(); e == nil && lacking > 0 {
		g.log.Warn("conntrack.state has no room for a full table: flows with a port or a helper of their own will be refused before", "folder", g.stateDir(), "lacking_bytes", lacking)
	}
	return err
}

// describe says what this process leaves. g.mu must be held.
func (g *Gateway) describe() error {
	header, err := stateHere()
	if err != nil {
		return err
	}
	header.Held = g.cfg.Gateway.OnExit == config.Hold
	header.Present = g.present()
	if err := g.keeper.folder.Describe(header); err != nil {
		return fmt.Errorf("conntrack.state: %w", err)
	}
	return nil
}

// describeAnew is describe when a new state is in force. Before the gateway runs bequeath
// does that. g.mu must be held.
func (g *Gateway) describeAnew() {
	if g.keeper.folder == nil || g.phase != running {
		return
	}
	if err := g.describe(); err != nil {
		g.log.Error("the next process will not know which addresses were lost", "error", err)
	}
}

// endLeft ends the flows that were recalled and need what was lost since, as if that had
// happened while a gateway ran. The workers run, who tell hosts.
func (g *Gateway) endLeft() {
	if left := g.keeper.left; left != nil && left.lost != nil {
		g.end(left.lost)
	}
}

// recallLeft restores what was left, and has it checked.
func (g *Gateway) recallLeft(left *leftover) error {
	begin := time.Now()
	did, err := g.engine.Restore(left.image)
	if err != nil {
		g.keeper.result.Refused = err.Error()
		g.log.Error("flows of the last process are not taken over", "folder", left.files.Path(), "error", err)
		return nil
	}
	if faults := g.engine.Check(); len(faults) > 0 {
		// A table that is wrong is worse than an empty one, which the next start has.
		return errors.Join(fmt.Errorf("conntrack.state: flows of the last process: %d faults, they are given up: %w", len(faults), errors.Join(faults...)),
			left.files.Remove())
	}
	g.logRestored("the last process", did)
	*g.keeper.result = api.Recalled{RestoreResult: api.RestoreResult(did), Seconds: time.Since(begin).Seconds()}
	return nil
}

// memory returns what the engine has to keep its state in, nil without conntrack.state.
func (k *keeper) memory() keep.Memory {
	if k.folder == nil {
		return nil
	}
	return k.folder
}

// leave lets who comes after the successor have the folder: flows are the successor's, in
// one of its own, and to end may take longer than a restart waits.
func (k *keeper) leave() error {
	if k.folder == nil {
		return nil
	}
	return k.folder.Leave()
}

// close gives back the memory. No table may use it any more.
func (k *keeper) close() error {
	var errs []error
	if k.left != nil {
		errs = append(errs, k.left.files.Close())
	}
	if k.folder != nil {
		errs = append(errs, k.folder.Close())
	}
	*k = keeper{result: k.result}
	return errors.Join(errs...)
}
