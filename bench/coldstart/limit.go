package coldstart

import "time"

// roundTrips is the minimum for a pull and start: connection, manifest, index, data.
const roundTrips = 4

// Limit is a lower bound for the cold start of an image that loads the files that it opens
// before it runs.
type Limit struct {
	Opened OpenedFiles
	// Warm is the time from the start of the program to its first answer under overlayfs, with
	// everything in the page cache.
	Warm time.Duration
}

// Duration returns the limit on a link: four round trips, the transfer of the files that the start
// opens, and the time that the program needs itself. A start that loads only parts of files, or
// loads while the program runs, can be faster.
func (l Limit) Duration(link Link) time.Duration {
	if l.Warm == 0 {
		return 0
	}
	transfer := time.Duration(float64(l.Opened.CompressedBytes) / link.BytesPerSecond * float64(time.Second))
	return roundTrips*link.RoundTrip + transfer + l.Warm
}
