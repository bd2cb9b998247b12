package coldstart

import "time"

// roundTrips is how many a pull and start cannot do without: connection, manifest, index,
// data.
const roundTrips = 4

// Limit is what bounds the cold start of an image from below.
type Limit struct {
	Opens Opens
	// Warm is how long a start takes under overlayfs with everything in the page cache,
	// from the start of the program until its first answer.
	Warm time.Duration
}

// On returns the limit on a link: four round trips, the bytes of the files that the start
// opens at the rate of the link, and the time that the program takes by itself. A start that
// loads parts of files, or while the program runs, can be faster.
func (l Limit) On(link Link) time.Duration {
	if l.Warm == 0 {
		return 0
	}
	transfer := time.Duration(float64(l.Opens.CompressedBytes) / link.BytesPerSecond * float64(time.Second))
	return roundTrips*link.RoundTrip + transfer + l.Warm
}
