package cli

import (
	"bytes"
	"io"

	"github.com/spf13/cobra"

	"github.com/brisk-project/brisk/internal/version"
)

// AddVersion gives a program the flag --version and the command of that name. more, which
// may be nil, adds what only that program knows.
func AddVersion(root *cobra.Command, more func(*version.Info)) {
	info := version.Of(root.Name())
	if more != nil {
		more(&info)
	}
	var text bytes.Buffer
	//nolint:errcheck,gosec // a buffer takes everything
	info.Write(&text)
	// Made here, because libraries may have made a global flag of that name, of another type.
	root.Flags().Bool("version", false, "print version and build")
	root.Version = info.Version
	root.SetVersionTemplate(text.String())
	root.AddCommand(NewVersionCommand(info))
}

// NewVersionCommand returns the command "version".
func NewVersionCommand(info version.Info) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print version and build",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return Print(cmd.OutOrStdout(), format, info, func(w io.Writer) error { return info.Write(w) })
		},
	}
	AddFormat(cmd, &format)
	return cmd
}
