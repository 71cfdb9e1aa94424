package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"example.com/culvert/test/netns"
)

// options are the flags of the command.
type options struct {
	driver  string
	gateway string
	hold    bool
}

// Values of options.driver.
const (
	driverAFPacket = "af_packet"
	driverTUN      = "tun"
)

// Command returns the command `demo`.
func Command() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "demo [flags]",
		Short:   "Build a network of namespaces on this machine and send real traffic through a gateway",
		Example: "  sudo culvert demo --driver tun --hold",
		Args:    cobra.NoArgs,
	}
	var o options
	cmd.Flags().StringVar(&o.driver, "driver", driverAFPacket, "`DRIVER` of the client's side: af_packet or tun")
	cmd.Flags().StringVar(&o.gateway, "gateway", netns.Culvert.String(), "`KIND` in the middle: culvert, or kernel for nftables (needs nft and conntrack)")
	cmd.Flags().BoolVar(&o.hold, "hold", false, "keep everything up until Ctrl-C and print commands to look around")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return run(cmd.Context(), o, cmd.OutOrStdout())
	}
	cmd.AddCommand(gatewayCommand())
	return cmd
}

var errRoot = errors.New(`the demo makes network namespaces, which needs root. Run it as
  sudo culvert demo
or, from a checkout (sudo seldom has go in its PATH):
  go build -o /tmp/culvert ./cmd/culvert && sudo /tmp/culvert demo`)

// Misuse is an error of the command line: values of flags that do not exist, or
// do not go together.
type Misuse struct{ error }

func misuse(format string, args ...any) error { return Misuse{fmt.Errorf(format, args...)} }

// topologyFor checks the options, whose errors are of type Misuse, and declares
// the network.
func topologyFor(o options) (netns.Topology, error) {
	kind := netns.Culvert
	switch o.gateway {
	case netns.Culvert.String():
	case netns.Kernel.String():
		kind = netns.Kernel
	default:
		return netns.Topology{}, misuse("--gateway %s: use %s or %s", o.gateway, netns.Culvert, netns.Kernel)
	}
	switch {
	case o.driver != driverAFPacket && o.driver != driverTUN:
		return netns.Topology{}, misuse("--driver %s: use %s or %s", o.driver, driverAFPacket, driverTUN)
	case o.driver == driverTUN && kind == netns.Kernel:
		return netns.Topology{}, misuse("--driver %s: the kernel has drivers of its own, leave the flag out with --gateway %s", o.driver, kind)
	}
	self, err := os.Executable()
	if err != nil {
		return netns.Topology{}, err
	}
	return topology(o.driver, kind, self), nil
}

// run is the whole demo. It returns an error when anything did not work.
func run(ctx context.Context, o options, stdout io.Writer) error {
	topology, err := topologyFor(o)
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errRoot
	}
	// A closed terminal or pipe ends the demo like Ctrl-C does: tidily.
	ctx, stop := signal.NotifyContext(ctx, unix.SIGHUP)
	defer stop()
	signal.Ignore(unix.SIGPIPE)

	out := &printer{w: stdout, lost: stop}
	out.heading(fmt.Sprintf("A client, a gateway and a server in three network namespaces (gateway %s, driver %s)", o.gateway, o.driver))
	lab, err := netns.Build(ctx, topology)
	if err == nil {
		err = tour(ctx, o, lab, out)
	}
	if err != nil && ctx.Err() != nil {
		err = errInterrupted // and not the many errors that it causes
	}
	if lab != nil {
		err = errors.Join(err, lab.Close())
	}
	return err
}

var errInterrupted = errors.New("interrupted")

// tour runs the steps in a lab.
func tour(ctx context.Context, o options, lab *netns.Lab, out *printer) error {
	// With TUN the client's interface came with the gateway.
	if err := lab.Configure(ctx, netns.End{Host: client, If: clientIf}); err != nil {
		return err
	}
	out.text(picture(lab, o))
	ctx, cancel := whileAlive(ctx, lab.Gateway().Process())
	defer cancel()
	d := &demo{lab: lab, out: out}
	if err := d.startServices(ctx); err != nil {
		return err
	}
	defer d.stopServices()
	err := failedSteps(d.runSteps(ctx))
	if ctx.Err() != nil {
		return errors.Join(context.Cause(ctx), err)
	}
	d.printTable(ctx)
	d.printCounters(ctx)
	if o.hold {
		out.heading("Everything stays up until Ctrl-C. Look around from another terminal (as root)")
		out.text(lookAround(lab))
		<-ctx.Done()
		// Ctrl-C is how a held demo ends: no failure.
		if cause := context.Cause(ctx); errors.Is(cause, errGatewayEnded) {
			return errors.Join(cause, err)
		}
	}
	return err
}

var errGatewayEnded = errors.New("the gateway has ended")

// whileAlive ends the context when the gateway's process ends, with what that had
// to say: nothing after it can work, and would only wait. A kernel has no process.
func whileAlive(ctx context.Context, gateway *netns.Process) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	if gateway != nil {
		go func() {
			select {
			case <-gateway.Done():
				cancel(fmt.Errorf("%w (%v); it wrote:\n%s", errGatewayEnded, gateway.Wait(ctx), gateway.Output()))
			case <-ctx.Done():
			}
		}()
	}
	return ctx, func() { cancel(nil) }
}

func failedSteps(failed []string, all int) error {
	if len(failed) == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d steps failed: %s", len(failed), all, strings.Join(failed, ", "))
}
