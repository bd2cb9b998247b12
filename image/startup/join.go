package startup

// Join returns one trace of several files, one after the other, within the limits of a trace. It
// has a command only if all of them have that command, and is predicted if any of them is.
func Join(files []File) File {
	var joined File
	var all Recorder
	for i, f := range files {
		if i == 0 {
			joined.Command = f.Command
		}
		if f.Command != joined.Command {
			joined.Command = ""
		}
		joined.Predicted = joined.Predicted || f.Predicted
		for _, s := range f.Trace {
			all.Add(s)
		}
	}
	joined.Trace = all.Trace()
	return joined
}
