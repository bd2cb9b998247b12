package chroot

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxAccounts is how much of a file of users or groups is read, in bytes.
const maxAccounts = 4 << 20

// user is who a program runs as.
type user struct {
	uid, gid int
	groups   []int
}

// lookUpUser finds a user in the files of the root.
func lookUpUser(name string) (user, error) {
	name, group, grouped := strings.Cut(name, ":")
	who := user{}
	login := "root"
	if name != "" {
		login = name
	}
	uid, number := strconv.Atoi(login)
	found := false
	err := scanAccounts("/etc/passwd", func(fields []string) bool {
		if len(fields) < 4 {
			return false
		}
		id, errUser := strconv.Atoi(fields[2])
		gid, errGroup := strconv.Atoi(fields[3])
		if errUser != nil || errGroup != nil || fields[0] != login && (number != nil || id != uid) {
			return false
		}
		login, found = fields[0], true
		who.uid, who.gid = id, gid
		return true
	})
	switch {
	case err != nil:
		return user{}, err
	case found, name == "":
	case number != nil:
		return user{}, fmt.Errorf("the image has no user %q", name)
	default:
		who.uid = uid
	}
	if !grouped {
		return who, who.addGroups(login)
	}
	return who, who.setGroup(group)
}

// setGroup sets the group of the user by name or number.
func (u *user) setGroup(name string) error {
	gid, number := strconv.Atoi(name)
	found := number == nil
	err := scanAccounts("/etc/group", func(fields []string) bool {
		if len(fields) < 3 || fields[0] != name {
			return false
		}
		id, err := strconv.Atoi(fields[2])
		if err == nil {
			gid, found = id, true
		}
		return found
	})
	if err == nil && !found {
		err = fmt.Errorf("the image has no group %q", name)
	}
	u.gid = gid
	return err
}

// addGroups adds the groups that have a user as a member.
func (u *user) addGroups(login string) error {
	return scanAccounts("/etc/group", func(fields []string) bool {
		if len(fields) < 4 {
			return false
		}
		for member := range strings.SplitSeq(fields[3], ",") {
			if gid, err := strconv.Atoi(fields[2]); err == nil && member == login {
				u.groups = append(u.groups, gid)
			}
		}
		return false
	})
}

// scanAccounts calls use with the fields of each line, until it says that it has enough. A file
// that is not there has no lines.
func scanAccounts(path string, use func(fields []string) bool) error {
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking for users: %w", err)
	}
	defer file.Close() //nolint:errcheck // read only
	lines := bufio.NewScanner(io.LimitReader(file, maxAccounts))
	for lines.Scan() {
		if use(strings.Split(lines.Text(), ":")) {
			return nil
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("reading %s of the image: %w", path, err)
	}
	return nil
}

// keptCapabilities are those that container runtimes leave to a container.
func keptCapabilities() map[int]bool {
	kept := make(map[int]bool)
	for _, c := range []int{
		unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FSETID, unix.CAP_FOWNER, unix.CAP_MKNOD, unix.CAP_NET_RAW, unix.CAP_SETGID,
		unix.CAP_SETUID, unix.CAP_SETFCAP, unix.CAP_SETPCAP, unix.CAP_NET_BIND_SERVICE, unix.CAP_SYS_CHROOT, unix.CAP_KILL, unix.CAP_AUDIT_WRITE,
	} {
		kept[c] = true
	}
	return kept
}

// dropPrivileges makes this thread one of the user, with what containers may do at most once
// it runs another program.
func dropPrivileges(who user) error {
	kept := keptCapabilities()
	for c := 0; c <= unix.CAP_LAST_CAP; c++ {
		if kept[c] {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("dropping capability %d: %w", c, err)
		}
	}
	if err := syscall.Setgroups(who.groups); err != nil {
		return fmt.Errorf("setting groups: %w", err)
	}
	if err := syscall.Setgid(who.gid); err != nil {
		return fmt.Errorf("setting group %d: %w", who.gid, err)
	}
	if err := syscall.Setuid(who.uid); err != nil {
		return fmt.Errorf("setting user %d: %w", who.uid, err)
	}
	// Another user forgets whose end ends this process, too.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("tying the container to its caller: %w", err)
	}
	return nil
}
