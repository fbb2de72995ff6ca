# shellcheck shell=sh
# Where an installation lies, and how it is changed: each change is told, and none is made in a dry
# run. Sourced by install.sh, for it and the other parts.
#
# A step that fails ends the script (set -e), which the shell leaves out in `if f` and `f || ...`: so
# functions that change something are called by themselves, and tell what they did in a variable.

# shellcheck disable=SC2034 # used by those that source it
prefix=/opt/rayhost etc=/etc/rayhost state=/var/lib/rayhost user=rayhost
units=/etc/systemd/system
command=/usr/local/bin/rayhost
changes=0

fail() {
    echo "install: $*" >&2
    exit 1
}

change() { # what, command...: one change, told before it is made
    changes=$((changes + 1))
    echo "install: ${dry:+would }$1"
    shift
    [ -n "$dry" ] || "$@"
}

is_as() { # path, owner:group, mode
    [ "$(stat -c '%U:%G %a' "$1" 2>/dev/null)" = "$2 $3" ]
}

folder() { # path, owner:group, mode
    if ! is_as "$1" "$2" "$3"; then
        change "make the folder $1 ($2, mode $3)" \
            install -d -o "${2%:*}" -g "${2#*:}" -m "0$3" "$1"
    fi
}

file() { # source, path, owner:group, mode; `wrote` says whether it was another one
    wrote=''
    if ! cmp -s "$1" "$2" || ! is_as "$2" "$3" "$4"; then
        change "write $2 ($3, mode $4)" put "$@"
        wrote=1
    fi
}

put() { # As a whole or not at all.
    install -o "${3%:*}" -g "${3#*:}" -m "0$4" "$1" "$2.new"
    mv -f "$2.new" "$2"
}

active() {
    systemctl --quiet is-active "$1" 2>/dev/null
}

enabled() {
    systemctl --quiet is-enabled "$1" 2>/dev/null
}

# What was put into force is noted, with a digest: so a run that was interrupted between writing a
# file and restarting for it is finished by the next one.

service_digest() { # release, folder of the units
    { echo "$1" && cat "$2/rayhost.service" "$2/rayhost.slice"; } | sha256sum
}

pending() { # what, digest: is something else in force?
    [ "$(cat "$prefix/applied/$1" 2>/dev/null)" != "$2" ]
}

applied() { # what, digest
    if [ -z "$dry" ] && pending "$1" "$2"; then
        mkdir -p $prefix/applied
        echo "$2" >"$prefix/applied/$1"
    fi
}

finish() {
    if [ $changes -eq 0 ]; then
        echo 'install: nothing to change'
    fi
}
