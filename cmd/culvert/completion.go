package main

import (
	"net"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func completionCommand() *cobra.Command {
	shell := choice{"", []string{"bash", "zsh", "fish"}}
	cmd := &cobra.Command{
		Use:       "completion (bash | zsh | fish)",
		Short:     "Print what makes a shell complete the command line of culvert",
		Example:   "  culvert completion bash > /etc/bash_completion.d/culvert",
		ValidArgs: shell.words,
		Args:      oneArgument("the shell"),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := shell.Set(args[0]); err != nil {
			return usageError{err: err}
		}
		root, out := cmd.Root(), cmd.OutOrStdout()
		switch shell.word {
		case "bash":
			return root.GenBashCompletionV2(out, true)
		case "zsh":
			return root.GenZshCompletion(out)
		}
		return root.GenFishCompletion(out, true)
	}
	return cmd
}

// completeFlags tells shells what the values of the flags below c can be.
func completeFlags(c *cobra.Command) {
	c.Flags().VisitAll(func(f *pflag.Flag) {
		var words func() []string
		switch v := f.Value.(type) {
		case *choice:
			words = func() []string { return v.words }
		default:
			words = flagWords[f.Name]
		}
		switch extensions, isFile := flagFiles[f.Name]; {
		case words != nil:
			complete := func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
				return words(), cobra.ShellCompDirectiveNoFileComp
			}
			if err := c.RegisterFlagCompletionFunc(f.Name, complete); err != nil {
				panic(err) // registered twice: every run of the program shows it
			}
		case isFile && !c.DisableFlagParsing:
			f.Annotations = map[string][]string{cobra.BashCompFilenameExt: extensions}
		}
	})
	for _, child := range c.Commands() {
		completeFlags(child)
	}
}

// flagWords are the values of flags that have the same meaning in every command.
var flagWords = map[string]func() []string{
	"lan": interfaceNames, "wan": interfaceNames,
	"helper-options": helperOptionNames,
	"log-level":      func() []string { return []string{"debug", "info", "warn", "error"} },
	"area":           func() []string { return []string{"lan", "wan", "guest", "host"} },
}

// flagFiles are flags whose values are files, with what their names end in.
var flagFiles = map[string][]string{"config": {"toml"}, "socket": {"sock"}}

func interfaceNames() (names []string) {
	all, err := net.Interfaces()
	if err != nil {
		return nil // a shell has nowhere to show it
	}
	for _, i := range all {
		names = append(names, i.Name)
	}
	return names
}

// completeInterface completes the one argument of a command.
func completeInterface(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return interfaceNames(), cobra.ShellCompDirectiveNoFileComp
}

// completeConntrack completes the options that conntrack reads by itself.
func completeConntrack(c *cobra.Command, args []string, word string) (found []string, _ cobra.ShellCompDirective) {
	const none = cobra.ShellCompDirectiveNoFileComp
	if strings.HasPrefix(word, "-") {
		c.Flags().VisitAll(func(f *pflag.Flag) {
			_, usage := pflag.UnquoteUsage(f)
			if word == "-" && f.Shorthand != "" {
				found = append(found, "-"+f.Shorthand+"\t"+usage)
			}
			found = append(found, "--"+f.Name+"\t"+usage)
		})
		return found, none
	}
	if len(args) == 0 {
		return nil, none
	}
	last := strings.TrimLeft(args[len(args)-1], "-")
	if f := c.Flags().Lookup(last); f != nil {
		last = f.Name
	} else if f := c.Flags().ShorthandLookup(last[:min(len(last), 1)]); f != nil && len(last) == 1 {
		last = f.Name
	}
	return conntrackWords[last], none
}

// conntrackWords are what may follow an option of conntrack.
var conntrackWords = map[string][]string{
	"dump":       {"conntrack", "expect", "dying", "unconfirmed"},
	"get":        {"conntrack", "expect"},
	"delete":     {"conntrack", "expect"},
	"create":     {"conntrack", "expect"},
	"event":      {"conntrack", "expect"},
	"flush":      {"conntrack", "expect"},
	"counter":    {"conntrack", "expect"},
	"protonum":   {"tcp", "udp", "udplite", "icmp", "icmpv6", "sctp", "dccp", "gre"},
	"family":     {"ipv4", "ipv6"},
	"output":     {"extended", "id", "timestamp", "ktimestamp", "labels", "xml", "save", "json"},
	"event-mask": {"ALL", "NEW", "UPDATES", "DESTROY"},
	"status":     {"ASSURED", "SEEN_REPLY", "UNSET", "FIXED_TIMEOUT", "EXPECTED", "OFFLOAD", "HW_OFFLOAD", "UNREPLIED"},
}
