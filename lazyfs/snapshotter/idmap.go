package snapshotter

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
)

// maxMappings is the most ranges that one mapping may have: what the kernel takes.
const maxMappings = 340

// rootOwner returns the owner on the machine of what belongs to root in a user
// namespace, if the labels describe one. IDs without a mapping are themselves.
func rootOwner(labels map[string]string) (uid, gid int, mapped bool, err error) {
	uidmap, hasUID := labels[snapshots.LabelSnapshotUIDMapping]
	gidmap, hasGID := labels[snapshots.LabelSnapshotGIDMapping]
	if !hasUID && !hasGID {
		return 0, 0, false, nil
	}
	if uid, err = hostRoot(uidmap); err != nil {
		return 0, 0, false, fmt.Errorf("user IDs of the snapshot: %w", err)
	}
	if gid, err = hostRoot(gidmap); err != nil {
		return 0, 0, false, fmt.Errorf("group IDs of the snapshot: %w", err)
	}
	return uid, gid, true, nil
}

// hostRoot returns what 0 is mapped to by ranges of the form inside:outside:length.
func hostRoot(mapping string) (int, error) {
	if mapping == "" {
		return 0, nil
	}
	ranges := strings.Split(mapping, ",")
	if len(ranges) > maxMappings {
		return 0, fmt.Errorf("%w: %d ranges, the limit is %d", errdefs.ErrInvalidArgument, len(ranges), maxMappings)
	}
	for _, r := range ranges {
		inside, outside, length, err := parseRange(r)
		if err != nil {
			return 0, err
		}
		if inside == 0 && length > 0 {
			return int(outside), nil
		}
	}
	return 0, fmt.Errorf("%w: %.100q does not map 0", errdefs.ErrInvalidArgument, mapping)
}

func parseRange(text string) (inside, outside, length uint32, err error) {
	fields := strings.Split(text, ":")
	if len(fields) != 3 {
		return 0, 0, 0, fmt.Errorf("%w: range %.100q is not of the form inside:outside:length", errdefs.ErrInvalidArgument, text)
	}
	var numbers [3]uint32
	for i, field := range fields {
		n, err := strconv.ParseUint(field, 10, 32)
		if err != nil {
			return 0, 0, 0, fmt.Errorf("%w: range %.100q: %w", errdefs.ErrInvalidArgument, text, err)
		}
		numbers[i] = uint32(n)
	}
	inside, outside, length = numbers[0], numbers[1], numbers[2]
	// The highest ID means "none" to the kernel.
	if uint64(inside)+uint64(length) >= 1<<32 || uint64(outside)+uint64(length) >= 1<<32 {
		return 0, 0, 0, fmt.Errorf("%w: range %.100q exceeds the IDs there are", errdefs.ErrInvalidArgument, text)
	}
	return inside, outside, length, nil
}
