#!/bin/sh
# Usage: erofs-utils.sh DIR
#
# Provides DIR/fsck.erofs of a version that reads blocks of 512 bytes, which the
# tests of image/erofs need, and DIR/mkfs.erofs, which the EROFS snapshotter of
# containerd needs. Each is a link to the program on the PATH if that is new
# enough, and else the program of a newer Debian release with the libraries of that
# release, from the mirror that the machine has its own packages from. Nothing is
# installed outside of DIR.
set -eu

release=trixie # the first Debian release with a version that is new enough

fail() {
	echo "erofs-utils.sh: $*" >&2
	exit 1
}

# new_enough PROGRAM: whether it runs and is of version 1.8 or newer.
new_enough() {
	out=$("$1" -V 2>/dev/null) || return 1
	for word in $out; do
		case $word in
		[0-9]*.[0-9]*)
			major=${word%%.*} minor=${word#*.}
			minor=${minor%%[!0-9]*}
			[ "$major" -gt 1 ] || { [ "$major" -eq 1 ] && [ "$minor" -ge 8 ]; }
			return
			;;
		esac
	done
	return 1
}

# source_entry SUITE: the apt source of a suite that has the URI and the keyring of
# the machine's own source of Debian's main component, in the one-line format.
# Other sources of the machine, such as those of updates, have other suites.
source_entry() {
	for file in /etc/apt/sources.list.d/*.sources /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
		[ ! -f "$file" ] || awk -v own="$VERSION_CODENAME" -v suite="$1" '
			function has(list, word) { return index(" " list " ", " " word " ") }
			function entry(types, uris, suites, components, keyring) {
				if (done || !has(types, "deb") || !has(components, "main") || !(has(suites, own) || has(suites, "stable"))) return
				sub(/ .*/, "", uris)
				print "deb [targets=Packages" (keyring ~ /^\// ? " signed-by=" keyring : "") "] " uris " " suite " main"
				done = 1
			}
			function stanza() {
				if (!has(field["enabled"], "no")) entry(field["types"], field["uris"], field["suites"], field["components"], field["signed-by"])
				split("", field)
			}
			/^[ \t]*#/ { next }
			FILENAME ~ /\.sources$/ {
				if (NF == 0) stanza()
				else if (match($0, /^[A-Za-z-]+:/)) {
					name = tolower(substr($0, 1, RLENGTH - 1))
					$1 = ""
					field[name] = substr($0, 2)
				}
				next
			}
			$1 == "deb" {
				keyring = ""
				if (match($0, /\[[^]]*\]/)) {
					options = " " substr($0, RSTART + 1, RLENGTH - 2) " "
					sub(/\[[^]]*\]/, "")
					if (match(options, / signed-by=[^ ]+/)) keyring = substr(options, RSTART + 11, RLENGTH - 11)
				}
				uri = $2; suites = $3
				$1 = $2 = $3 = ""
				entry("deb", uri, suites, $0, keyring)
			}
			END { if (FILENAME ~ /\.sources$/) stanza() }
		' "$file"
	done
}

# private_apt ARGUMENTS: apt-get as on a machine with no packages and one source,
# with everything that it writes below $work.
private_apt() {
	apt-get -qq -o APT::Sandbox::User=root -o Acquire::Languages=none -o Acquire::Retries=3 \
		-o Dir::Etc::sourcelist="$work/source.list" -o Dir::Etc::sourceparts=- \
		-o Dir::Etc::preferences=- -o Dir::Etc::preferencesparts=- \
		-o Dir::State="$work/state" -o Dir::State::status="$work/status" -o Dir::Cache="$work/cache" "$@"
}

[ $# -eq 1 ] || fail "usage: erofs-utils.sh DIR"
mkdir -p "$1"
dir=$(cd "$1" && pwd)
program=$dir/fsck.erofs

if [ -e "$dir/mkfs.erofs" ] && [ -e "$program" ] && new_enough "$program"; then
	exit 0
fi
rm -f "$program" "$dir/mkfs.erofs"
if installed=$(command -v fsck.erofs) && new_enough "$installed" && maker=$(command -v mkfs.erofs); then
	ln -s "$installed" "$program"
	ln -s "$maker" "$dir/mkfs.erofs"
	exit 0
fi

for tool in apt-get dpkg awk; do
	command -v "$tool" >/dev/null || fail "needs $tool to fetch erofs-utils; or install erofs-utils 1.8 or newer"
done
ID='' VERSION_CODENAME=''
[ ! -f /etc/os-release ] || . /etc/os-release
[ "$ID" = debian ] || fail "fetches erofs-utils on Debian only; install erofs-utils 1.8 or newer"

work=$(mktemp -d "$dir/.erofs-utils.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial" "$work/root"
: >"$work/status"
source_entry "$release" >"$work/sources"
head -n 1 "$work/sources" >"$work/source.list"
[ -s "$work/source.list" ] || fail "found no source of Debian's main component in /etc/apt"

echo "fetching erofs-utils of Debian $release into $dir"
private_apt update || fail "cannot read the package list of Debian $release"
private_apt install --yes --download-only --no-install-recommends erofs-utils >"$work/log" 2>&1 ||
	{ cat "$work/log" >&2; fail "cannot fetch erofs-utils and its libraries"; }
for package in "$work"/cache/archives/*.deb; do
	dpkg -x "$package" "$work/root"
done

# The loader of that release with its libraries, whatever those of the machine are.
mv "$work/root/usr/bin/fsck.erofs" "$work/root/usr/bin/mkfs.erofs" "$work"/root/usr/lib/*-linux-gnu*/
rm -rf "$dir/erofs-utils"
mv "$work"/root/usr/lib/*-linux-gnu* "$dir/erofs-utils"
rm -rf "$dir/erofs-utils/gconv"
loader=$(cd "$dir/erofs-utils" && echo ld-linux-*.so.*)
for name in mkfs.erofs fsck.erofs; do
	cat >"$work/$name" <<END
#!/bin/sh
lib=\${0%/*}/erofs-utils
exec "\$lib/$loader" --library-path "\$lib" "\$lib/$name" "\$@"
END
	chmod 755 "$work/$name"
	mv "$work/$name" "$dir/$name"
done
new_enough "$program" || fail "$program of Debian $release does not run"
