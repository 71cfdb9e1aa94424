package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"example.com/culvert/control"
	"example.com/culvert/control/api"
)

func releaseCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "release [flags]",
		Short:   "Give interfaces that a gateway with on_exit = \"hold\" left closed back to the kernel",
		Example: "  culvert release",
		Args:    noArguments,
	}
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		n, err := control.ReleaseHeld()
		return errors.Join(err, render(cmd.OutOrStdout(), output, released{n}, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "%s released\n", count(n, "interface"))
			return err
		}))
	}
	return cmd
}

// released is the answer of culvert release.
type released struct {
	Interfaces int `json:"interfaces"` // that were given back
}

func interfaceCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "interface COMMAND",
		Short:   "Add or remove interfaces of a running gateway",
		Example: "  culvert interface add veth7 --area guest",
		Args:    unknownCommand,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(interfaceAddCommand(), interfaceRemoveCommand())
	return cmd
}

func interfaceAddCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "add NAME --area AREA [flags]",
		Short:   "Serve one more interface until it is removed or the gateway ends",
		Example: "  culvert interface add veth7 --area guest --address 10.7.0.1/24",
		Args:    oneArgument("the interface"),

		ValidArgsFunction: completeInterface,
	}
	socket := socketFlag(cmd)
	var spec api.InterfaceSpec
	cmd.Flags().StringVar(&spec.Area, "area", "", "`AREA` the interface belongs to")
	driver := choice{"af_packet", []string{"af_packet", "tun"}}
	cmd.Flags().Var(&driver, "driver", "`DRIVER`: af_packet or tun")
	cmd.Flags().StringSliceVar(&spec.Addresses, "address", nil, "gateway's `PREFIX` on it; repeat for more (default the kernel's)")
	cmd.Flags().StringSliceVar(&spec.NextHops, "next-hop", nil, "`ADDRESS` of the router behind it; repeat for more")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if spec.Area == "" {
			return usageError{err: fmt.Errorf("--area is missing")}
		}
		spec.Name, spec.Driver = args[0], driver.word
		client := connect(*socket)
		defer client.Close()
		return client.AddInterface(cmd.Context(), spec)
	}
	return cmd
}

func interfaceRemoveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "remove NAME [flags]",
		Short:   "Stop serving an interface until it is added again or the gateway starts anew",
		Example: "  culvert interface remove veth7",
		Args:    oneArgument("the interface"),

		ValidArgsFunction: completeInterface,
	}
	socket := socketFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		client := connect(*socket)
		defer client.Close()
		return client.RemoveInterface(cmd.Context(), args[0])
	}
	return cmd
}
