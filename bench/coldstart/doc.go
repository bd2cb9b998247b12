// Package coldstart defines the cells of the benchmark of cold starts, and prints the table of
// results: images on links of different rates, started in different ways ([Arm]), compared with
// a limit ([Limit]).
//
// It measures only the files that a start opens ([WatchOpens]), and whether the machine is quiet
// ([MeasureProcessorUse]).
package coldstart
