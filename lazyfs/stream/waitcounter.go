package stream

import "sync/atomic"

// waitCounter counts the reads that wait for blocks. The zero value is ready.
type waitCounter struct{ waiting atomic.Int64 }

func (l *waitCounter) begin() { l.waiting.Add(1) }

func (l *waitCounter) end() { l.waiting.Add(-1) }

func (l *waitCounter) count() int { return int(l.waiting.Load()) }
