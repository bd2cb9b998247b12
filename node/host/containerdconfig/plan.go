package containerdconfig

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/brisk-project/brisk/node/host/tomledit"
)

// marker begins files that are ours alone.
const marker = "# Written by \"brisk-node install\". \"brisk-node uninstall\" removes it.\n"

// The places of containerd's own defaults.
const (
	DefaultMain   = "/etc/containerd/config.toml"
	DefaultDropIn = "/etc/containerd/conf.d/zz-brisk.toml"
	// backupSuffix is added to the name of the main file for the copy of it.
	backupSuffix = ".before-brisk"
)

// State is the state of the snapshotter in the configuration of containerd.
type State int

// The states.
const (
	// Absent is a configuration without the snapshotter.
	Absent State = iota
	// Registered means that containerd can use existing snapshots, while the CRI creates new ones
	// with another snapshotter.
	Registered
	// Selected means that it is the snapshotter of the CRI.
	Selected
)

// Target is a containerd to configure.
type Target struct {
	// Name is what containerd calls the snapshotter, Socket where it is served, and Dir
	// where it keeps what it loads.
	Name, Socket, Dir string
	// Version is that of the containerd that reads the configuration.
	Version Version
	// Main and DropIn are the absolute paths of the main file and of the one of our own.
	Main, DropIn string
	// Root is put in front of all paths of files that are read and written, but not in
	// front of those within them. It is empty outside tests and containers.
	Root string
}

// Change is what is to become of a file. A nil content is that of no file.
type Change struct {
	Path     string // with Root
	Old, New []byte
}

// Plan returns the changes that bring the files into a state, none if they are in it.
func (t Target) Plan(state State) ([]Change, error) {
	if !t.Version.Supported() {
		return nil, fmt.Errorf("containerd %s is not supported, but 1.7 and 2.x are", t.Version)
	}
	main, err := t.load(t.Main)
	if err != nil {
		return nil, err
	}
	backup, err := t.load(t.Main + backupSuffix)
	if err != nil {
		return nil, err
	}
	dropIn, err := t.load(t.DropIn)
	if err != nil {
		return nil, err
	}
	wantedMain, wantedBackup, err := t.mains(state, main, backup)
	if err != nil {
		return nil, fmt.Errorf("changing %s: %w", t.Main, err)
	}
	version := int64(0)
	if wantedMain != nil {
		doc, err := tomledit.Parse(wantedMain)
		if err != nil {
			return nil, err
		}
		if value, ok := doc.Get("version"); ok {
			version, _ = value.(int64) //nolint:errcheck // it was checked when the main file was changed
		}
	}
	wantedDropIn, err := t.dropIn(state, version)
	if err != nil {
		return nil, err
	}
	if dropIn != nil && !bytes.HasPrefix(dropIn, []byte(marker)) {
		return nil, fmt.Errorf("changing %s: it is not a file of brisk-node", t.DropIn)
	}
	// What is referred to comes first when it is made, and last when it is removed.
	changes := []Change{
		{t.path(t.Main + backupSuffix), backup, wantedBackup},
		{t.path(t.DropIn), dropIn, wantedDropIn},
		{t.path(t.Main), main, wantedMain},
	}
	if state == Absent {
		slices.Reverse(changes)
	}
	return slices.DeleteFunc(changes, func(c Change) bool {
		return (c.Old == nil) == (c.New == nil) && bytes.Equal(c.Old, c.New)
	}), nil
}

func (t Target) path(path string) string { return filepath.Join(t.Root, path) }

// load returns the content of a file, nil if there is none.
func (t Target) load(path string) ([]byte, error) {
	content, err := os.ReadFile(t.path(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the configuration of containerd: %w", err)
	}
	return append([]byte{}, content...), nil
}

// mains returns what the main file and the copy of it should be.
func (t Target) mains(state State, main, backup []byte) (wantedMain, wantedBackup []byte, err error) {
	if state == Absent {
		clean, err := t.clean(main, backup)
		return clean, nil, err
	}
	if main == nil {
		version := "2"
		if t.Version.Major >= 2 {
			version = "3"
		}
		main, backup = []byte(marker+"version = "+version+"\n"), nil
	} else if known, err := t.changed(main); err != nil {
		return nil, nil, err
	} else if !known && !bytes.HasPrefix(main, []byte(marker)) {
		backup = main
	}
	doc, err := tomledit.Parse(main)
	if err != nil {
		return nil, nil, err
	}
	version, err := fileVersion(doc)
	if err != nil {
		return nil, nil, err
	}
	if t.Version.Major >= 2 {
		err = t.importDropIn(doc)
	} else {
		err = t.edit(doc, state, version, backup)
	}
	if err != nil {
		return nil, nil, err
	}
	if bytes.Equal(doc.Bytes(), backup) {
		return doc.Bytes(), nil, nil // nothing was changed, so no copy is needed
	}
	return doc.Bytes(), backup, nil
}

// fileVersion returns the version of the format of a main file.
func fileVersion(doc *tomledit.Document) (int64, error) {
	value, ok := doc.Get("version")
	version, number := value.(int64)
	switch {
	case !ok:
		version = 1
	case !number:
		return 0, errors.New("version is not a number")
	}
	if version < 2 {
		return 0, errors.New("it has the format of version 1; convert it with \"containerd config migrate\" first")
	}
	return version, nil
}

// changed reports whether a main file has been changed by this package.
func (t Target) changed(main []byte) (bool, error) {
	doc, err := tomledit.Parse(main)
	if err != nil {
		return false, err
	}
	_, proxied := doc.Get("proxy_plugins", t.Name)
	return proxied || t.Version.Major >= 2 && t.imports(doc), nil
}
