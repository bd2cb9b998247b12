package containerdconfig

import (
	"fmt"
	"regexp"
	"strconv"
)

// Version is that of a containerd.
type Version struct{ Major, Minor, Patch int }

// String implements fmt.Stringer.
func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch) }

// AtLeast reports whether a version is another one or a later one.
func (v Version) AtLeast(major, minor int) bool {
	return v.Major > major || v.Major == major && v.Minor >= minor
}

// Supported reports whether this package knows how to configure the version.
func (v Version) Supported() bool { return v.Major == 2 || v.Major == 1 && v.Minor >= 7 }

// ParseVersion finds a version in what containerd says of itself, be it the answer of
// its API or the output of containerd --version.
func ParseVersion(text string) (Version, error) {
	// The path of the module holds something like a version too.
	found := regexp.MustCompile(`(?:^|[ v])(\d{1,4})\.(\d{1,4})\.(\d{1,4})`).FindStringSubmatch(text)
	if found == nil {
		return Version{}, fmt.Errorf("there is no version in %.80q", text)
	}
	var parts [3]int
	for i := range parts {
		number, err := strconv.Atoi(found[i+1])
		if err != nil {
			return Version{}, fmt.Errorf("reading version %q: %w", found[0], err)
		}
		parts[i] = number
	}
	return Version{parts[0], parts[1], parts[2]}, nil
}
