// Package waterfall records the requests and reads of the start of an image, with their sources
// and waits, and draws them.
//
// A [Recorder] keeps the last start of each image, bounded in images and events. A [Start] is
// such a record: as JSON, as text ([Start.WriteText]), or as a chart ([Start.WriteSVG],
// [Start.WriteHTML]). It contains names of images and files.
package waterfall
