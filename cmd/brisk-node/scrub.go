package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/brisk-project/brisk/internal/units"
	"github.com/brisk-project/brisk/lazyfs/scrub"
	"github.com/brisk-project/brisk/node"
)

// newScrubCommand makes the command that tells the scrubber what to do.
func newScrubCommand() *cobra.Command {
	opts := &options{}
	cmd := &cobra.Command{
		Use:   "scrub {start|pause|resume|trust}",
		Short: "Control the search for bit rot in the disk cache",
		Long: `Control the search for bit rot in the disk cache.

  start   read and hash the whole cache now, with at most a tenth of a core
  pause   stop reading; known corrupt blocks are still repaired
  resume  continue after pause
  trust   forget all corrupt blocks found so far, so that the node is ready again`,
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{node.ScrubStart, node.ScrubPause, node.ScrubResume, node.ScrubTrust},
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := opts.load(cmd.Flags())
			if err != nil {
				return err
			}
			return node.Client{Dir: cfg.Directory}.Scrub(cmd.Context(), args[0])
		},
	}
	opts.addPlacesTo(cmd)
	return cmd
}

// printScrub prints what the scrubber has found.
func printScrub(w *strings.Builder, s scrub.Status) {
	var now string
	switch {
	case s.Paused:
		now = "paused"
	case s.Running:
		now = fmt.Sprintf("%s of %s read", units.Size(s.CheckedBytes), units.Size(s.TotalBytes))
	case !s.NextPass.IsZero():
		now = "next " + s.NextPass.Local().Format(time.DateTime)
	default:
		now = "off"
	}
	if !s.LastPass.IsZero() {
		now += ", last ended " + s.LastPass.Local().Format(time.DateTime)
	}
	fmt.Fprintf(w, "scrub:        %s, %d corrupt blocks found, %d mended\n", now, s.FoundBlocks, s.RepairedBlocks)
	for _, b := range s.Corrupt[:min(len(s.Corrupt), 10)] {
		state := "mended"
		switch {
		case !b.Repaired && b.DirectlyMounted:
			state = "NOT mended, mounts read the corrupt bytes: " + b.Error
		case !b.Repaired:
			state = "not mended yet: " + b.Error
		case b.Stale:
			state = "mended, but programs that have mapped it still see the corrupt bytes: restart the containers"
		}
		fmt.Fprintf(w, "              block %d of layer %s (%s), found %d times: %s\n", b.Block, b.Layer.Short(), strings.Join(b.Images, ", "), b.Times, state)
	}
}
