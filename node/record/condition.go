package record

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// kind is the kind of a condition.
type kind int

const (
	byExit kind = iota
	byTime
	byPort
	byLog
)

// Until is a condition that ends a recording.
type Until struct {
	kind    kind
	after   time.Duration
	port    uint16 // 0 is any
	pattern *regexp.Regexp
}

// defaultTime is the default duration of a recording.
const defaultTime = 30 * time.Second

// DefaultUntil returns the default conditions: the program listens on a port or ends, or 30 s have
// passed.
func DefaultUntil() []Until {
	return []Until{{kind: byPort}, {kind: byExit}, {kind: byTime, after: defaultTime}}
}

// ParseUntil reads one of "exit", "port" (any that the program listens on), "port:NUMBER",
// "log:REGEXP" (a line of its output), and a time such as "30s".
func ParseUntil(text string) (Until, error) {
	name, value, _ := strings.Cut(text, ":")
	switch {
	case text == "exit":
		return Until{kind: byExit}, nil
	case text == "port":
		return Until{kind: byPort}, nil
	case name == "port":
		port, err := strconv.ParseUint(value, 10, 16)
		if err != nil || port == 0 {
			return Until{}, fmt.Errorf("%q is not a port: want a number from 1 to 65535", value)
		}
		return Until{kind: byPort, port: uint16(port)}, nil
	case name == "log":
		pattern, err := regexp.Compile(value)
		if err == nil && value == "" {
			err = errors.New("it is empty")
		}
		if err != nil {
			return Until{}, fmt.Errorf("pattern of log lines: %w", err)
		}
		return Until{kind: byLog, pattern: pattern}, nil
	}
	after, err := time.ParseDuration(text)
	if err != nil {
		return Until{}, fmt.Errorf("%q is none of exit, port, port:NUMBER, log:REGEXP and a time such as 30s", text)
	}
	if after <= 0 || after > maxTime {
		return Until{}, fmt.Errorf("%s is not a time of more than 0 and at most %s", text, maxTime)
	}
	return Until{kind: byTime, after: after}, nil
}

// String names the condition as it is written.
func (u Until) String() string {
	switch {
	case u.kind == byExit:
		return "exit"
	case u.kind == byTime:
		return u.after.String()
	case u.kind == byLog:
		return "log:" + u.pattern.String()
	case u.port == 0:
		return "port"
	default:
		return fmt.Sprintf("port:%d", u.port)
	}
}
