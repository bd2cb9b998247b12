// Package coldstart says what a benchmark of cold starts measures, and makes a table of
// it: images on links of different rates, started in different ways ([Arm]), beside the
// limit that no lazy start can go below ([Limit]).
//
// It measures nothing by itself but what a start opens ([WatchOpens]) and whether the
// machine is quiet ([MeasureQuiet]).
package coldstart
