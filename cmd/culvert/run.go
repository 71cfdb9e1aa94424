package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"example.com/culvert/control"
	"example.com/culvert/control/api"
	"example.com/culvert/control/logging"
	"example.com/culvert/control/notify"
	"example.com/culvert/control/privilege"
	"example.com/culvert/control/upgrade"
	"example.com/culvert/rules/config"
)

// drainTime is how long requests have to end when the gateway is told to.
const drainTime = 5 * time.Second

// runOptions are the flags of culvert run.
type runOptions struct {
	config    string
	lan, wan  []string
	socket    string
	state     string
	logFormat choice
	logLevel  choice
	fixed     logging.Fixed // what of these two the command line says
}

func runCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "run (-c FILE | --lan INTERFACE --wan INTERFACE) [flags]",
		Short:   "Run the gateway until SIGTERM or SIGINT; SIGHUP reloads, SIGUSR2 upgrades",
		Example: "  culvert run -c /etc/culvert/culvert.toml",
		Args:    noArguments,
	}
	var o runOptions
	f := cmd.Flags()
	f.StringVarP(&o.config, "config", "c", "", "configuration `FILE`")
	f.StringSliceVar(&o.lan, "lan", nil, "inside `INTERFACE`, without a file; repeat for more")
	f.StringSliceVar(&o.wan, "wan", nil, "outside `INTERFACE`, without a file: IPv4 leaves masqueraded")
	f.StringVar(&o.socket, "socket", "", "control `PATH` (default CULVERT_SOCKET, the file's, or /run/culvert/NAME.sock for root)")
	f.StringVar(&o.state, "state", "", "`DIRECTORY` where flows outlive the process, in place of conntrack.state of the file")
	o.logFormat = choice{"text", []string{"text", "json"}}
	f.Var(&o.logFormat, "log-format", "`FORM` of the log on standard error: text or json")
	o.logLevel = choice{"info", []string{"debug", "info", "warn", "error"}}
	f.Var(&o.logLevel, "log-level", "least `LEVEL` that is logged: debug, info, warn or error")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		o.fixed = o.fix(cmd.Flags().Changed)
		return run(cmd.Context(), o, cmd.ErrOrStderr())
	}
	return cmd
}

// load returns the configuration that the flags ask for.
func (o *runOptions) load() (*config.Config, error) {
	quick := len(o.lan)+len(o.wan) > 0
	switch {
	case quick && o.config != "":
		return nil, usageError{err: errors.New("--lan and --wan are for running without a file; drop them or -c")}
	case o.config != "":
		return config.Load(o.config)
	case len(o.lan) > 0 && len(o.wan) > 0:
		for _, name := range o.lan {
			if slices.Contains(o.wan, name) {
				return nil, usageError{err: fmt.Errorf("--lan and --wan both name %s; an interface is inside or outside", name)}
			}
		}
		return config.Quick(o.lan, o.wan), nil
	}
	return nil, usageError{err: errors.New("want -c FILE, or both --lan and --wan")}
}

// fix returns the settings of the log that the command line has given.
func (o *runOptions) fix(given func(flag string) bool) (f logging.Fixed) {
	if given("log-level") {
		if level, err := logging.ParseLevel(o.logLevel.word); err == nil { // choice knows no others
			f.Level = &level
		}
	}
	if given("log-format") {
		form := logging.Text
		if o.logFormat.word == "json" {
			form = logging.JSON
		}
		f.Form = &form
	}
	return f
}

func run(ctx context.Context, o runOptions, stderr io.Writer) error {
	before, err := upgrade.Predecessor()
	if err != nil {
		return err
	}
	cfg, err := o.load()
	if err != nil {
		return before.Fail(err)
	}
	logs := logging.NewSpooled(stderr, control.LogSettings(&cfg.Log), o.fixed)
	defer logs.Flush() // an error: nobody reads that either
	log := logs.Logger()
	orders := make(chan os.Signal, 1) // from here on these do not end the process
	signal.Notify(orders, unix.SIGHUP, unix.SIGUSR2)
	defer signal.Stop(orders)
	socket := cmp.Or(o.socket, os.Getenv("CULVERT_SOCKET"))
	if strings.HasPrefix(socket, "https://") {
		return usageError{err: fmt.Errorf("%s: run makes a socket and wants a path; the listener is api.listen of the configuration", socket)}
	}
	g, err := control.New(cfg, control.Options{Log: log, Logs: logs, Socket: socket, State: o.state, Notify: notify.FromEnvironment(),
		Command: command(), Predecessor: before})
	if err != nil {
		return before.Fail(err)
	}
	if err := g.Start(ctx); err != nil {
		return err
	}
	dropPrivileges(cfg, log)
	for {
		select {
		case sig := <-orders:
			obey(ctx, g, sig, log)
		case <-g.LeftTo():
			return end(ctx, g)
		case <-ctx.Done():
			return end(ctx, g)
		}
	}
}

// obey does what a signal asks for. What went wrong is in the log: nobody waits for an
// answer here.
func obey(ctx context.Context, g *control.Gateway, sig os.Signal, log *slog.Logger) {
	switch sig {
	case unix.SIGHUP:
		if _, err := g.ReloadFile(ctx, api.ReloadRequest{}); err != nil {
			log.Error("SIGHUP", "error", err)
		}
	case unix.SIGUSR2:
		if _, err := g.Upgrade(ctx, api.UpgradeRequest{}); err != nil {
			log.Debug("SIGUSR2", "error", err) // Upgrade has logged it
		}
	}
}

// end closes the gateway; requests that run have drainTime.
func end(ctx context.Context, g *control.Gateway) error {
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	return g.Close(drain)
}

// command returns how this process was started, with the file of its program: the one
// that has that name by then is what an upgrade starts.
func command() []string {
	file, err := os.Executable()
	if err != nil {
		file = os.Args[0]
	}
	return append([]string{file}, os.Args[1:]...)
}

// dropPrivileges keeps only the capabilities that the running gateway needs.
func dropPrivileges(cfg *config.Config, log *slog.Logger) {
	keep := []privilege.Capability{privilege.NetAdmin, privilege.NetRaw, privilege.BPF}
	for _, i := range cfg.Interfaces {
		if i.Netns != "" {
			keep = append(keep, privilege.SysAdmin)
			break
		}
	}
	if err := privilege.Drop(keep...); err != nil {
		log.Warn("all capabilities are kept", "error", err)
	}
}
