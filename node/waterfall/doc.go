// Package waterfall records what the start of an image asked for, where that came from, and
// what had to be waited for, and draws it.
//
// A [Recorder] keeps the last start of each image, bounded in images and events. [Start] is
// what it tells of one: as JSON, as text ([Start.WriteText]), or as a picture ([Start.WriteSVG],
// [Start.WriteHTML]). It contains names of images and files.
package waterfall
