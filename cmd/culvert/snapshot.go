package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"example.com/culvert/control/api"
	"example.com/culvert/control/snapshot"
)

// snapshotMode is that of a file of flows: who talks to whom is nobody else's business.
const snapshotMode = 0o600

func snapshotCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "snapshot COMMAND",
		Short:   "Keep the flows of a running gateway in a file, and have them again",
		Example: "  culvert snapshot save /var/lib/culvert/flows.snapshot",
		Args:    unknownCommand,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(snapshotSaveCommand(), snapshotRestoreCommand())
	return cmd
}

// savedSnapshot is the answer of culvert snapshot save.
type savedSnapshot struct {
	File         string `json:"file"`
	Bytes        int64  `json:"bytes"`
	Flows        int    `json:"flows"`
	Expectations int    `json:"expectations"`
	Ports        int    `json:"ports"` // that are kept for who had them
}

func snapshotSaveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "save FILE [flags]",
		Short:   "Write flows with their translation and state, expectations and kept ports to a file; packets go on meanwhile",
		Example: "  culvert snapshot save /var/lib/culvert/flows.snapshot",
		Args:    oneArgument("the file"),
	}
	socket, output := socketFlag(cmd), outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		client := connect(*socket)
		defer client.Close()
		stream, err := client.Snapshot(cmd.Context())
		if err != nil {
			return err
		}
		defer stream.Close()
		saved, err := saveSnapshot(args[0], stream)
		if err != nil {
			return err
		}
		return render(cmd.OutOrStdout(), output, saved, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "saved %s, %s and %s to %s\n", count(saved.Flows, "flow"), count(saved.Expectations, "expectation"),
				count(saved.Ports, "kept port"), saved.File)
			return err
		})
	}
	return cmd
}

// saveSnapshot writes a snapshot to a file, verifies it, and gives it its name: a file
// that has it is whole, and the one before stays until then.
func saveSnapshot(path string, from io.Reader) (saved savedSnapshot, err error) {
	b, err := io.ReadAll(from)
	if err != nil {
		return saved, fmt.Errorf("the gateway broke off: %w", err)
	}
	s, err := snapshot.Parse(b)
	if err != nil {
		return saved, err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return saved, err
	}
	defer os.Remove(f.Name()) // nothing is there when it has its name
	_, err = f.Write(b)
	if err = errors.Join(err, f.Chmod(snapshotMode), f.Sync(), f.Close()); err != nil {
		return saved, err
	}
	n := s.Count()
	return savedSnapshot{path, int64(len(b)), n.Flows, n.Expectations, n.Ports}, os.Rename(f.Name(), path)
}

func snapshotRestoreCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "restore FILE [flags]",
		Short: "Have the flows of a file again, besides those that there are; a file that is damaged, or of another version, " +
			"is refused whole",
		Example: "  culvert snapshot restore /var/lib/culvert/flows.snapshot",
		Args:    oneArgument("the file"),
	}
	socket, output := socketFlag(cmd), outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		b, err := os.ReadFile(args[0])
		if err != nil {
			return err
		}
		client := connect(*socket)
		defer client.Close()
		result, err := client.RestoreSnapshot(cmd.Context(), b)
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		return render(cmd.OutOrStdout(), output, result, func(w io.Writer) error {
			_, err := fmt.Fprintln(w, restoredText(&result))
			return err
		})
	}
	return cmd
}

// restoredText says what was restored, and what was not and why.
func restoredText(r *api.RestoreResult) string {
	var not []string
	for _, x := range []struct {
		n   int
		why string
	}{
		{r.Expired, "whose time was over"}, {r.Taken, "whose tuple, port or master is another's or gone"},
		{r.Full, "without room"}, {r.Torn, "that make no sense"},
	} {
		if x.n > 0 {
			not = append(not, fmt.Sprintf("%d %s", x.n, x.why))
		}
	}
	text := fmt.Sprintf("restored %s, %s and %s", count(r.Flows, "flow"), count(r.Expectations, "expectation"), count(r.Ports, "kept port"))
	if len(not) > 0 {
		text += "; left out " + strings.Join(not, ", ")
	}
	return text
}
