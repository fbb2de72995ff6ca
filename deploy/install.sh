#!/bin/sh
# Installs rayhost as a service of this machine, upgrades it, or takes it away again. Says each
# change that it makes; what is there already is left alone, so a second run changes nothing.
#
#   install.sh [--offline WHEELHOUSE] [--profile FILE] [--cpus LIST] [--dry-run]
#   install.sh --rollback [--dry-run]
#   install.sh --uninstall [--keep-data] [--dry-run]
#
# --offline   install from a folder that `make wheelhouse` made; the default is the folder that this
#             script lies in, if it is one, else a new one built from this checkout (minutes)
# --profile   the profile to serve; put into place of the one that is there
# --cpus      CPUs of the service, as in 0-2,4
# --rollback  go back to the release from before the last upgrade
# --keep-data leave the profile, keys, models and snapshots
# --dry-run   print every change instead of making it
#
# Releases lie side by side in /opt/rayhost/releases, and `current` points to one of them: an upgrade
# is prepared beside the running one, and takes over in one restart that refuses no connection.
set -eu

prefix=/opt/rayhost
etc=/etc/rayhost
state=/var/lib/rayhost
user=rayhost
units=/etc/systemd/system
command=/usr/local/bin/rayhost

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
dry='' action=install wheelhouse='' profile='' cpus='' keep_data=''
changes=0 restart='' work=''

fail() {
    echo "install: $*" >&2
    exit 1
}

while [ $# -gt 0 ]; do
    case $1 in
    --dry-run) dry=1 ;;
    --uninstall) action=uninstall ;;
    --rollback) action=rollback ;;
    --keep-data) keep_data=1 ;;
    --offline | --profile | --cpus)
        [ $# -ge 2 ] || fail "$1 needs a value"
        case $1 in
        --offline) wheelhouse=$2 ;;
        --profile) profile=$2 ;;
        --cpus) cpus=$2 ;;
        esac
        shift
        ;;
    -h | --help)
        sed -n '2,/^set -eu/s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
    *) fail "unknown option $1; see --help" ;;
    esac
    shift
done

cleanup() {
    [ -z "$work" ] || rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 1' HUP INT TERM

change() { # what, command...: one change, told before it is made
    changes=$((changes + 1))
    echo "install: ${dry:+would }$1"
    shift
    [ -n "$dry" ] || "$@"
}

folder() { # path, owner:group, mode
    if [ "$(stat -c '%U:%G %a' "$1" 2>/dev/null)" != "$2 $3" ]; then
        change "make the folder $1 ($2, mode $3)" \
            install -d -o "${2%:*}" -g "${2#*:}" -m "0$3" "$1"
    fi
}

file() { # source, path, owner:group, mode: 0 if it was changed
    if cmp -s "$1" "$2" && [ "$(stat -c '%U:%G %a' "$2")" = "$3 $4" ]; then
        return 1
    fi
    change "write $2 ($3, mode $4)" install -o "${3%:*}" -g "${3#*:}" -m "0$4" "$1" "$2"
}

finish() {
    if [ $changes -eq 0 ]; then
        echo 'install: nothing to change'
    fi
}

uninstall() {
    for unit in rayhost.service rayhost.socket rayhost.slice; do
        if [ -e $units/$unit ]; then
            change "stop $unit and take it away" take_unit $unit
        fi
    done
    if [ -n "$restart" ]; then
        systemctl daemon-reload
        systemctl reset-failed 'rayhost.*' 2>/dev/null || :
    fi
    set -- $command $prefix
    [ -n "$keep_data" ] || set -- "$@" $etc $state
    for path in "$@"; do
        if [ -e "$path" ] || [ -L "$path" ]; then
            change "remove $path" rm -rf "$path"
        fi
    done
    # Files that are kept go on belonging to it.
    if [ -z "$keep_data" ] && getent passwd $user >/dev/null; then
        change "remove the user $user" userdel $user
    fi
    finish
}

take_unit() {
    restart=1
    case $1 in
    *.slice) systemctl --quiet stop "$1" ;;
    *) systemctl --quiet disable --now "$1" ;;
    esac
    rm -f "$units/$1"
}

rollback() {
    before=$(readlink $prefix/previous) || fail 'there is no release to go back to'
    now=$(readlink $prefix/current)
    change "go back to release ${before##*/}" ln -sfn "$before" $prefix/current
    [ -n "$dry" ] || ln -sfn "$now" $prefix/previous
    change 'restart rayhost.service' systemctl restart rayhost.service
}

python() {
    for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
        then
            command -v "$candidate"
            return
        fi
    done
    fail 'no Python 3.11 or newer with venv; to mend it: apt-get install -y python3-venv'
}

is_wheelhouse() {
    for wheel in "$1"/rayhost-*.whl; do
        [ -e "$wheel" ]
        return
    done
}

release() { # Prepare the release of this wheelhouse in $prefix/releases/$id.
    target=$prefix/releases/$id
    if [ -e "$target/.complete" ]; then
        return
    fi
    change "install release $id into $target" install_release
}

install_release() {
    rm -rf "$target"
    mkdir -p $prefix/releases
    "$python" -m venv "$target"
    "$target/bin/python" -m pip install --quiet --no-input --disable-pip-version-check \
        --no-cache-dir --no-index --find-links "$wheelhouse" rayhost
    # A wheelhouse for another machine ends here, with the running release untouched.
    "$target/bin/python" -c 'import llama_cpp' || fail 'llama.cpp of this wheelhouse does not load here'
    touch "$target/.complete"
}

use_release() {
    now=$(readlink $prefix/current) || now=''
    if [ "$now" = "releases/$id" ]; then
        return
    fi
    restart=1
    change "serve release $id" ln -sfn "releases/$id" $prefix/current
    if [ -n "$now" ] && [ -z "$dry" ]; then
        ln -sfn "$now" $prefix/previous
    fi
    for old in "$prefix"/releases/*; do
        case $old in
        "$prefix/releases/$id" | "$prefix/$now" | "$prefix/releases/*") ;;
        *) change "remove the old release ${old##*/}" rm -rf "$old" ;;
        esac
    done
}

first_key() { # The file is root's to write and the service's to read, at once.
    umask 077
    "$prefix/current/bin/rayhost" key add first --file $etc/keys.json >"$work/key"
    chown root:$user $etc/keys.json
    chmod 640 $etc/keys.json
}

installation() {
    if [ -z "$wheelhouse" ] && is_wheelhouse "$here"; then
        wheelhouse=$here
    elif [ -z "$wheelhouse" ]; then
        checkout=$("$here/preflight.sh")
        "$checkout" -m venv "$work/build"
        echo 'install: building a wheelhouse; compiling llama.cpp takes minutes'
        "$work/build/bin/python" "$here/wheelhouse.py" "$work/wheelhouse"
        wheelhouse=$work/wheelhouse
    fi
    is_wheelhouse "$wheelhouse" || fail "$wheelhouse: no wheelhouse; make one with: make wheelhouse"
    wheelhouse=$(CDPATH='' cd -- "$wheelhouse" && pwd)
    python=$(python)
    if [ -e "$wheelhouse/built-for.json" ]; then
        why=$(PYTHONPATH=$(printf '%s' "$wheelhouse"/rayhost-*.whl) "$python" \
            -m rayhost.deploy.built_for check "$wheelhouse/built-for.json") ||
            fail "$wheelhouse: $why; make one on such a machine"
    fi
    ldconfig -p | grep -q libgomp.so.1 ||
        fail 'no libgomp, which llama.cpp needs; to mend it: apt-get install -y libgomp1'
    for wheel in "$wheelhouse"/rayhost-*.whl; do
        version=${wheel##*/rayhost-}
        version=${version%%-*}
    done
    sum=$(cd "$wheelhouse" && "$python" -V | cat - ./*.whl | sha256sum | cut -c 1-8)
    id=$version-$sum

    if [ -z "$profile" ] && [ -e $etc/profile.json ]; then
        profile=$etc/profile.json
    elif [ -z "$profile" ]; then
        profile=$work/profile.json
        echo '{ "models": [{ "name": "smollm2-135m" }], "keys": "keys.json" }' >"$profile"
    fi
    [ -e "$profile" ] || fail "$profile: no such profile"
    PYTHONPATH=$(printf '%s' "$wheelhouse"/rayhost-*.whl) "$python" -m rayhost.deploy \
        --out "$work" --only systemd --profile "$profile" ${cpus:+--cpus "$cpus"} >/dev/null

    if ! getent passwd $user >/dev/null; then
        change "make the system user $user" \
            useradd --system --user-group --home-dir $state --shell /usr/sbin/nologin $user
    fi
    folder $prefix root:root 755
    folder $etc root:root 755
    folder $etc/secrets root:root 700
    release
    use_release
    if [ "$(readlink $command)" != $prefix/current/bin/rayhost ]; then
        change "make the command $command" ln -sfn $prefix/current/bin/rayhost $command
    fi
    reload=''
    if file "$profile" $etc/profile.json root:root 644; then
        reload=1
    fi
    if [ ! -e $etc/keys.json ]; then
        change 'make a first API key' first_key
    fi

    daemon_reload=''
    for unit in rayhost.slice rayhost.socket rayhost.service; do
        if file "$work/systemd/$unit" $units/$unit root:root 644; then
            daemon_reload=1 restart=1
            [ $unit != rayhost.socket ] || socket=1
        fi
    done
    if [ -n "$daemon_reload" ]; then
        change 'let systemd read its units again' systemctl daemon-reload
    fi
    start
    finish
    if [ -s "$work/key" ]; then
        echo "install: the first API key, shown only now: $(cat "$work/key")"
        echo "install: others: rayhost key add NAME --file $etc/keys.json"
    fi
}

start() {
    for unit in rayhost.socket rayhost.service; do
        if ! systemctl --quiet is-enabled $unit 2>/dev/null; then
            change "enable $unit" systemctl --quiet enable $unit
        fi
    done
    if [ -n "${socket:-}" ] && systemctl --quiet is-active rayhost.socket; then
        # Another address: the service has to let go of the old one first.
        change 'stop rayhost.service for its new socket' \
            systemctl stop rayhost.service rayhost.socket
    fi
    if ! systemctl --quiet is-active rayhost.socket; then
        change 'start rayhost.socket' systemctl start rayhost.socket
    fi
    if ! systemctl --quiet is-active rayhost.service; then
        change 'start rayhost.service; a first start pulls the models' \
            systemctl start rayhost.service
    elif [ -n "$restart" ]; then
        change 'restart rayhost.service' systemctl restart rayhost.service
    elif [ -n "$reload" ]; then
        change 'let rayhost.service take in the profile' systemctl reload rayhost.service
    fi
}

[ "$(id -u)" -eq 0 ] || [ -n "$dry" ] || fail 'it has to be root'
[ -d /run/systemd/system ] || [ -n "$dry" ] ||
    fail 'systemd does not run here; see docs/deploy.md for a laptop and for containers'
work=$(mktemp -d)
case $action in
install) installation ;;
rollback) rollback ;;
uninstall) uninstall ;;
esac
