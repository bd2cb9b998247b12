package startup

// Join returns one trace of several files, one after the other, within the limits of a trace:
// prefetch lists first, see [Listed]. It is a list if all of them are. Of the others, it has a command
// only if all of them have that command, and is predicted if any of them is.
func Join(files []File) File {
	var joined File
	var lists, others Recorder
	first := true
	for _, f := range files {
		if f.List {
			lists.addAll(f.Trace)
			continue
		}
		others.addAll(f.Trace)
		if first {
			joined.Command = f.Command
		}
		if f.Command != joined.Command {
			joined.Command = ""
		}
		joined.Predicted = joined.Predicted || f.Predicted
		first = false
	}
	joined.List = first && len(files) > 0
	joined.Trace = Listed(lists.Trace(), others.Trace())
	return joined
}

// Listed returns the trace of a prefetch list followed by what only read, a trace that was recorded or
// predicted, has. If both exceed the limits of a trace, each may have half of the blocks and what the
// other one leaves, so that a long list does not displace what starts read.
func Listed(list, read Trace) Trace {
	room := max(MaxBlocks/2, MaxBlocks-countBlocks(read))
	all := Recorder{limit: room}
	all.addAll(list)
	all.limit, all.full = 0, false
	all.addAll(read)
	return all.Trace()
}

func countBlocks(t Trace) int {
	n := 0
	for _, r := range t.Blocks() {
		n += int(r.Count)
	}
	return n
}
