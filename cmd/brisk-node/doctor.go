package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/brisk-project/brisk/internal/cli"
	"github.com/brisk-project/brisk/node/host/doctor"
)

// errSick says that a check has failed; the findings have been printed.
var errSick = errors.New("something here does not work: see the findings")

func newDoctorCommand() *cobra.Command {
	opts := &installOptions{}
	var format, registry string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check whether this node can run lazy images",
		Long: `Check whether this node can run lazy images, and say how to fix problems.

The checks mount images in a temporary directory. The exit code is 1 if a check fails.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := opts.load(cmd.Flags())
			if err != nil {
				return err
			}
			target, err := opts.target(cfg)
			if err != nil {
				return err
			}
			findings := doctor.Run(cmd.Context(), doctor.Config{
				Node: cfg, Target: target, Containerd: opts.containerd, Registry: registry,
			})
			err = cli.Print(cmd.OutOrStdout(), format, findings, func(w io.Writer) error { return printFindings(w, findings) })
			if err == nil && doctor.Failed(findings) {
				err = errSick
			}
			return err
		},
	}
	opts.addPlacesTo(cmd)
	opts.addContainerdTo(cmd.Flags())
	cli.AddFormat(cmd, &format)
	cmd.Flags().StringVar(&registry, "registry", "", "also compare the clock with this registry, given as host or host:port")
	return cmd
}

func printFindings(w io.Writer, findings []doctor.Finding) error {
	var text strings.Builder
	for _, f := range findings {
		fmt.Fprintf(&text, "%-4s  %-17s  %s\n", f.Level, f.Check, strings.ReplaceAll(f.Found, "\n", "; "))
		if f.Advice != "" {
			fmt.Fprintf(&text, "%25s-> %s\n", "", f.Advice)
		}
	}
	_, err := io.WriteString(w, text.String())
	return err
}
