package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"example.com/culvert/cmd/culvert/demo"
	"example.com/culvert/control/api"
	"example.com/culvert/rules/config"
)

// Exit statuses.
const (
	exitDone    = 0
	exitFailed  = 1
	exitMisused = 2
)

// usageError is a wrong command line. An empty hint stands for the --help of the
// command it happened in.
type usageError struct {
	err     error
	program string // who complains; empty: culvert
	hint    string
}

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

// execute runs the command line args and returns the exit status.
func execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitDone
	}
	var misuse usageError
	if errors.As(err, &misuse) {
		hint := cmp.Or(misuse.hint, fmt.Sprintf("Try '%s --help'.", cmd.CommandPath()))
		fmt.Fprintf(stderr, "%s: %v\n%s\n", cmp.Or(misuse.program, "culvert"), err, hint)
		return exitMisused
	}
	if !errors.Is(err, errReported) {
		fmt.Fprintf(stderr, "culvert: %v\n", err)
	}
	return exitFailed
}

// errReported ends a command whose errors are printed already.
var errReported = errors.New("reported")

const helpTemplate = `Usage: {{.UseLine}}

{{.Short}}.
{{if .HasAvailableSubCommands}}
Commands:{{range .Commands}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}
{{end}}{{if .HasAvailableLocalFlags}}
Flags:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}
{{end}}{{if .HasAvailableInheritedFlags}}
Global flags:
{{.InheritedFlags.FlagUsages | trimTrailingWhitespaces}}
{{end}}{{if .Example}}
Example:
{{.Example}}
{{end}}`

func newRoot() *cobra.Command {
	show := demo.Command()
	show.Args = noArguments
	runDemo := show.RunE
	show.RunE = func(cmd *cobra.Command, args []string) error {
		err := runDemo(cmd, args)
		if wrong, ok := errors.AsType[demo.Misuse](err); ok {
			return usageError{err: wrong}
		}
		return err
	}
	root := &cobra.Command{
		Use:           "culvert COMMAND",
		Short:         "Translate and filter packets between networks, without the kernel's netfilter",
		Example:       "  culvert run --lan eth1 --wan eth0",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          unknownCommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetHelpTemplate(helpTemplate)
	root.SetUsageTemplate(helpTemplate)
	root.SetHelpCommand(&cobra.Command{Use: "help [COMMAND]", Short: "Explain a command", Hidden: true, Run: help})
	root.SetFlagErrorFunc(flagError)
	for _, c := range []*cobra.Command{
		runCommand(),
		checkCommand(),
		show,
		selftestCommand(),
		statusCommand(),
		reloadCommand(),
		upgradeCommand(),
		conntrackCommand(),
		eventsCommand(),
		rulesCommand(),
		countersCommand(),
		topCommand(),
		explainCommand(),
		traceCommand(),
		captureCommand(),
		algCommand(),
		snapshotCommand(),
		debugCommand(),
		interfaceCommand(),
		releaseCommand(),
		logCommand(),
		completionCommand(),
		manCommand(),
		versionCommand(),
	} {
		root.AddCommand(c)
	}
	completeFlags(root)
	return root
}

func help(cmd *cobra.Command, args []string) {
	about, _, err := cmd.Root().Find(args)
	if err != nil || about == nil {
		about = cmd.Root()
	}
	_ = about.Help() // prints to the output of the command, or nowhere
}

// unknownCommand names the nearest command.
func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return usageError{err: fmt.Errorf("unknown command %q%s", args[0], didYouMean(args[0], names))}
}

// noArguments refuses words that no flag takes.
func noArguments(_ *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return usageError{err: fmt.Errorf("unexpected argument %q", args[0])}
}

// oneArgument wants exactly one word.
func oneArgument(what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usageError{err: fmt.Errorf("want one argument, %s; got %d", what, len(args))}
		}
		return nil
	}
}

// flagError makes a usage error of what the flag parser says and names the
// nearest flag.
func flagError(cmd *cobra.Command, err error) error {
	const unknown = "unknown flag: --"
	text := err.Error()
	if !strings.HasPrefix(text, unknown) {
		return usageError{err: err}
	}
	name, _, _ := strings.Cut(strings.TrimPrefix(text, unknown), "=")
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, "--"+f.Name) })
	return usageError{err: fmt.Errorf("%s%s", text, didYouMean("--"+name, names))}
}

// Help texts of the flags that say which gateway a command is for.
const (
	socketHelp = "control `PATH` of the gateway, or https://HOST:PORT (default CULVERT_SOCKET, or /run/culvert/culvert.sock for root)"
	tokenHelp  = "`FILE` with the token, for https (default CULVERT_TOKEN_FILE)"
	caHelp     = "`FILE` with the authorities to trust, for https (default CULVERT_CA_FILE, or the system's)"
)

// whereabouts say which gateway a command is for, and how to be let in.
type whereabouts struct{ socket, tokenFile, caFile string }

// socketFlag adds --socket and what goes with it, and returns where the values will be.
func socketFlag(cmd *cobra.Command) *whereabouts {
	w, f := new(whereabouts), cmd.Flags()
	f.StringVar(&w.socket, "socket", "", socketHelp)
	f.StringVar(&w.tokenFile, "token-file", "", tokenHelp)
	f.StringVar(&w.caFile, "ca-file", "", caHelp)
	return w
}

// connect returns a client for the gateway that w names, or for the default one.
func connect(w whereabouts) *api.Client {
	socket := cmp.Or(w.socket, os.Getenv("CULVERT_SOCKET"), api.DefaultSocket(config.Defaults().Gateway.Name))
	if strings.HasPrefix(socket, "https://") {
		return api.NewRemoteClient(api.Remote{
			URL:       socket,
			TokenFile: cmp.Or(w.tokenFile, os.Getenv("CULVERT_TOKEN_FILE")),
			CAFile:    cmp.Or(w.caFile, os.Getenv("CULVERT_CA_FILE")),
		})
	}
	return api.NewClient(socket)
}
