package main

import (
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"example.com/culvert/control"
)

// version is the answer of culvert version.
type version struct {
	Version  string            `json:"version"` // of the module, or the commit it was built from
	Go       string            `json:"go"`
	Platform string            `json:"platform"` // GOOS/GOARCH
	Settings map[string]string `json:"settings"` // of the build that change what it does
	Modules  []module          `json:"modules"`  // linked into the program, by path
}

type module struct {
	Path    string `json:"path"`
	Version string `json:"version"`
	Sum     string `json:"sum,omitempty"` // as in go.sum
}

// told are the build settings that say how the program came about.
var told = []string{"CGO_ENABLED", "GOARCH", "GOAMD64", "GOOS", "-buildmode", "-pgo", "-race", "-tags", "-trimpath", "vcs.revision", "vcs.time", "vcs.modified"}

func versionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print the version and how it was built; as JSON with every module",
		Example: "  culvert version -o json",
		Args:    noArguments,
	}
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		v := thisVersion()
		return render(cmd.OutOrStdout(), output, v, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "culvert %s %s %s\n", v.Version, v.Go, v.Platform)
			for _, name := range told {
				if value, ok := v.Settings[name]; ok && err == nil && !strings.HasPrefix(name, "GO") {
					_, err = fmt.Fprintf(w, "  %-12s %s\n", strings.TrimPrefix(name, "-"), value)
				}
			}
			return err
		})
	}
	return cmd
}

func thisVersion() version {
	v := version{Version: control.Version(), Settings: map[string]string{}, Modules: []module{}}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.Go = info.GoVersion
	for _, s := range info.Settings {
		if slices.Contains(told, s.Key) {
			v.Settings[s.Key] = s.Value
		}
	}
	v.Platform = v.Settings["GOOS"] + "/" + v.Settings["GOARCH"]
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		v.Modules = append(v.Modules, module{m.Path, m.Version, m.Sum})
	}
	return v
}
