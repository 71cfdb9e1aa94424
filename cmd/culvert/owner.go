package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"

	"github.com/spf13/cobra"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
	"example.com/culvert/rules"
	"example.com/culvert/rules/config"
)

// errNoOwner: no rule of the file gives the address or port to anybody.
var errNoOwner = errors.New("no deterministic rule has it")

// owner is one line of the answer of debug owner.
type owner struct {
	Rule    string `json:"rule"`
	Client  string `json:"client"`
	Address string `json:"address"` // external
	Ports   string `json:"ports"`
}

func debugOwnerCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "owner -c FILE ADDRESS[:PORT]",
		Short: "Say who has an external port, or which ports an inside address has, by the deterministic rules of a file",
		Long: "Say who has an external port, or which ports an inside address has, by the deterministic rules of a file.\n" +
			"Keep the file that was in force: then no log of flows or blocks is needed.",
		Example: "  culvert debug owner -c culvert.toml 203.0.113.5:4711",
		Args:    oneArgument("the address"),
	}
	path, output := cmd.Flags().StringP("config", "c", "", "configuration `FILE`"), outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *path == "" {
			return usageError{err: errors.New("-c FILE is missing")}
		}
		find, err := parseOwned(args[0])
		if err != nil {
			return usageError{err: err}
		}
		cfg, err := config.Load(*path)
		if err != nil {
			fmt.Fprintln(cmd.ErrOrStderr(), err)
			return errReported
		}
		found := owners(cfg, find)
		if len(found) == 0 {
			return fmt.Errorf("%s: %w", args[0], errNoOwner)
		}
		return render(cmd.OutOrStdout(), output, found, func(w io.Writer) error {
			for _, o := range found {
				fmt.Fprintf(w, "%s has %s ports %s (%s)\n", o.Client, o.Address, o.Ports, o.Rule)
			}
			return nil
		})
	}
	return cmd
}

// parseOwned reads an external endpoint, or an inside address, as what finds the
// inside address in a plan.
func parseOwned(s string) (func(*nat.Plan) (tuple.Addr, bool), error) {
	if at, err := netip.ParseAddrPort(s); err == nil {
		return func(p *nat.Plan) (tuple.Addr, bool) { return p.Client(tuple.AddrFrom(at.Addr()), at.Port()) }, nil
	}
	inside, err := netip.ParseAddr(s)
	if err != nil {
		return nil, fmt.Errorf("%q is neither an external address with a port, such as 203.0.113.5:4711, nor an inside address", s)
	}
	return func(*nat.Plan) (tuple.Addr, bool) { return tuple.AddrFrom(inside), true }, nil
}

// owners asks every plan of a configuration.
func owners(cfg *config.Config, find func(*nat.Plan) (tuple.Addr, bool)) (found []owner) {
	for i := range cfg.Rules.Lists[rules.Snat] {
		r := &cfg.Rules.Lists[rules.Snat][i]
		plan := r.Src.Plan
		if plan == nil {
			continue
		}
		client, ok := find(plan)
		if !ok {
			continue
		}
		if addr, ports, ok := plan.Block(client); ok {
			name := r.Name
			if name == "" {
				name = fmt.Sprintf("snat rule %d", i+1)
			}
			found = append(found, owner{name, client.String(), addr.String(), ports.String()})
		}
	}
	return found
}
