package install

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"text/template"

	"github.com/brisk-project/brisk/node/host/containerdconfig"
)

//go:embed unit.service.tmpl
var unitTemplate string

// UnitName is the name of the unit, and DefaultUnit where it is written.
const (
	UnitName    = "brisk-node.service"
	DefaultUnit = "/etc/systemd/system/" + UnitName
)

// plain are paths that mean the same to the service manager as to everybody else.
const plain = `^/[A-Za-z0-9/._+@=-]*$`

// unit returns the content of the unit.
func (i *Installer) unit() ([]byte, error) {
	allowed := regexp.MustCompile(plain)
	for _, path := range []string{i.cfg.Program, i.cfg.NodeConfig} {
		if !allowed.MatchString(path) {
			return nil, fmt.Errorf("writing the unit: the path %q holds characters that units give a meaning to, or is not absolute", path)
		}
	}
	made, err := template.New("unit").Parse(unitTemplate)
	if err != nil {
		return nil, fmt.Errorf("writing the unit: %w", err)
	}
	var buf bytes.Buffer
	if err := made.Execute(&buf, map[string]string{"Program": i.cfg.Program, "Config": i.cfg.NodeConfig}); err != nil {
		return nil, fmt.Errorf("writing the unit: %w", err)
	}
	return buf.Bytes(), nil
}

// unitChange returns what is to become of the unit, none if it is as wanted.
func (i *Installer) unitChange(wanted []byte) ([]containerdconfig.Change, error) {
	path := filepath.Join(i.cfg.Target.Root, i.cfg.Unit)
	now, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		now, err = nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the unit: %w", err)
	}
	if bytes.Equal(now, wanted) {
		return nil, nil
	}
	return []containerdconfig.Change{{Path: path, Old: now, New: wanted}}, nil
}

// settingsChange makes the configuration file of the agent if there is none.
func (i *Installer) settingsChange() ([]containerdconfig.Change, error) {
	path := filepath.Join(i.cfg.Target.Root, i.cfg.NodeConfig)
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return []containerdconfig.Change{{Path: path, New: i.cfg.Settings}}, nil
}
