package stream

import "sync/atomic"

// load counts the reads that wait for blocks. The zero value is ready.
type load struct{ waiting atomic.Int64 }

func (l *load) begin() { l.waiting.Add(1) }

func (l *load) end() { l.waiting.Add(-1) }

func (l *load) count() int { return int(l.waiting.Load()) }
