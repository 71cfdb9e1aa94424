package demo

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"example.com/culvert/control"
	"example.com/culvert/rules/config"
)

// gatewayVerb is the hidden subcommand that is the gateway of the demo.
const gatewayVerb = "gateway"

// drainTime is how long the gateway may take to end.
const drainTime = 3 * time.Second

// gatewayCommand is `culvert run` with a service inside the process: a redirect
// rule leads to it, on the gateway's own stack.
func gatewayCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:    gatewayVerb + " -c FILE --socket PATH",
		Short:  "Run the gateway of a demo in the present network namespace",
		Args:   cobra.NoArgs,
		Hidden: true,
	}
	path := cmd.Flags().StringP("config", "c", "", "configuration `FILE`")
	socket := cmd.Flags().String("socket", "", "control `PATH`")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
		return runGateway(cmd.Context(), *path, control.Options{Log: log, Socket: *socket})
	}
	return cmd
}

// runGateway runs until ctx ends.
func runGateway(ctx context.Context, path string, opts control.Options) (err error) {
	cfg, err := config.Load(path)
	if err != nil {
		return err
	}
	g, err := control.New(cfg, opts)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), drainTime)
		defer cancel()
		err = errors.Join(err, g.Close(ctx))
	}()
	if err := g.Start(ctx); err != nil {
		return err
	}
	service, err := g.Listen("tcp", ":"+strconv.Itoa(servicePort))
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	wg.Go(func() { acceptAll(service, greet) })
	<-ctx.Done()
	err = service.Close()
	wg.Wait()
	return err
}
