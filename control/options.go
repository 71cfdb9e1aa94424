package control

import (
	"errors"
	"log/slog"
	"runtime/debug"

	"example.com/culvert/control/api"
	"example.com/culvert/control/logging"
	"example.com/culvert/control/notify"
	"example.com/culvert/control/upgrade"
	"example.com/culvert/dataplane/port"
)

// NoSocket as Options.Socket makes a gateway without a control socket.
const NoSocket = "-"

// Options are what a gateway needs beside its configuration. The zero value is
// usable.
type Options struct {
	Log    *slog.Logger    // slog.Default() if nil
	Socket string          // path of the control socket; empty: the configuration's, else the default for the gateway's name
	State  string          // folder in place of conntrack.state
	Notify notify.Notifier // service manager to tell

	// Logs is what Log writes to, if its levels are to follow the configuration and
	// the API; nil: whoever made Log sets them.
	Logs *logging.Log

	// Command is how the process was started, the program's file first: Upgrade starts its
	// successor like that. Empty: it cannot be upgraded.
	Command []string

	// Predecessor is a process that this gateway takes over from; nil: none.
	Predecessor *upgrade.Conn

	// Ports are used in place of drivers for the interfaces with these names.
	// The gateway closes them. It neither owns nor follows anything in the kernel
	// for them: their addresses must be static.
	Ports map[string]port.Port
}

// Errors that the methods of a Gateway wrap, by what the caller can do.
var (
	ErrRefused    = api.ErrRefused                           // what was asked for cannot be; nothing has changed
	ErrNotFound   = api.ErrNotFound                          // there is no such interface
	ErrExists     = api.ErrExists                            // there is such an interface already
	ErrAbsent     = errors.New("there is no such interface") // in the kernel
	ErrNotRunning = errors.New("gateway is not running")
)

// Version is the module version or the commit that the program was built from.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	revision, dirty := "", ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			revision = s.Value[:min(12, len(s.Value))]
		case "vcs.modified":
			if s.Value == "true" {
				dirty = "+changes"
			}
		}
	}
	if revision == "" {
		return info.Main.Version
	}
	return revision + dirty
}
