package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/cpuguy83/go-md2man/v2/md2man"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"example.com/culvert/rules/config"
)

func manCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "man DIRECTORY",
		Short:   "Write the manual pages of all commands, and culvert.toml(5), below a directory",
		Example: "  culvert man /usr/local/share/man",
		Args:    oneArgument("the directory"),
		RunE: func(cmd *cobra.Command, args []string) error {
			for path, text := range manual(cmd.Root()) {
				path = filepath.Join(args[0], path)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					return err
				}
				if err := os.WriteFile(path, md2man.Render([]byte(text)), 0o644); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// manual returns the pages in Markdown, by path.
func manual(root *cobra.Command) map[string]string {
	pages := map[string]string{"man5/culvert.toml.5": configurationPage()}
	var add func(c *cobra.Command)
	add = func(c *cobra.Command) {
		pages["man1/"+manName(c)+".1"] = commandPage(c)
		for _, child := range c.Commands() {
			if child.IsAvailableCommand() {
				add(child)
			}
		}
	}
	add(root)
	return pages
}

func manName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// head begins a page. There is no date: the same program gives the same pages.
func head(name, section, about string) string {
	return fmt.Sprintf("%% %s %s \"\" \"culvert\" \"Culvert manual\"\n\n# NAME\n\n%s - %s\n\n", strings.ToUpper(name), section, name, plain(about))
}

func commandPage(c *cobra.Command) string {
	var b strings.Builder
	about := c.Short
	if c.Long != "" {
		about = c.Long
	}
	b.WriteString(head(manName(c), "1", c.Short))
	path, rest := c.CommandPath(), strings.TrimPrefix(c.UseLine(), c.CommandPath())
	fmt.Fprintf(&b, "# SYNOPSIS\n\n**%s**%s\n\n# DESCRIPTION\n\n%s.\n\n", plain(path), plain(rest), plain(about))
	options(&b, "OPTIONS", c.LocalFlags())
	options(&b, "GLOBAL OPTIONS", c.InheritedFlags())
	if c.Example != "" {
		fmt.Fprintf(&b, "# EXAMPLE\n\n%s\n\n", indent.ReplaceAllString(c.Example, "    "))
	}
	fmt.Fprint(&b, "# EXIT STATUS\n\n0 when the command did what it says, 1 when it could not, 2 when it was called wrongly.\n\n# SEE ALSO\n\n")
	var also []string
	if c.HasParent() {
		also = append(also, manName(c.Parent())+"(1)")
	}
	for _, child := range c.Commands() {
		if child.IsAvailableCommand() {
			also = append(also, manName(child)+"(1)")
		}
	}
	also = append(also, "culvert.toml(5)")
	fmt.Fprintf(&b, "%s\n", plain(strings.Join(also, ", ")))
	return b.String()
}

// options writes flags as a list of definitions.
func options(b *strings.Builder, title string, flags *pflag.FlagSet) {
	if !flags.HasAvailableFlags() {
		return
	}
	fmt.Fprintf(b, "# %s\n\n", title)
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		argument, usage := pflag.UnquoteUsage(f)
		if f.Shorthand != "" {
			fmt.Fprintf(b, "**-%s**, ", f.Shorthand)
		}
		fmt.Fprintf(b, "**--%s**", f.Name)
		if argument != "" {
			fmt.Fprintf(b, " *%s*", plain(argument))
		}
		fmt.Fprintf(b, "\n: %s", plain(usage))
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "0" && f.DefValue != "[]" {
			fmt.Fprintf(b, " (default %s)", plain(f.DefValue))
		}
		b.WriteString("\n\n")
	})
}

// configurationPage is the reference of the file's keys.
func configurationPage() string {
	_, reference, _ := strings.Cut(config.Reference(), "\n\n") // without its title
	return head("culvert.toml", "5", "configuration of the NAT gateway culvert") +
		"# DESCRIPTION\n\n" + subtitle.ReplaceAllString(reference, "# ") + "\n# SEE ALSO\n\nculvert(1), culvert-check(1)\n"
}

var (
	indent   = regexp.MustCompile(`(?m)^ *`)
	subtitle = regexp.MustCompile(`(?m)^## `)
	special  = regexp.MustCompile("[\\\\`*_{}\\[\\]<>#|~]")
)

// plain returns text that is not Markdown as Markdown.
func plain(text string) string { return special.ReplaceAllString(text, `\$0`) }
