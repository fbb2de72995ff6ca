#!/bin/sh
# Installs rayhost as a service of this machine, upgrades it, or takes it away again. Says each
# change that it makes; what is there already is left alone, so a second run changes nothing.
#
#   install.sh [--offline WHEELHOUSE] [--profile FILE] [--cpus LIST] [--dry-run]
#              [--proxy nginx|caddy --domain DOMAIN [--certificate FILE --certificate-key FILE]]
#   install.sh --rollback [--dry-run]
#   install.sh --uninstall [--keep-data] [--dry-run]
#
# --offline   install from a folder that `make wheelhouse` made; the default is the folder that this
#             script lies in, if it is one, else a new one built from this checkout (minutes)
# --profile   the profile to serve; put into place of the one that is there
# --cpus      CPUs of the service, as in 0-2,4
# --proxy     put this reverse proxy in front, for a domain and with Let's Encrypt's certificate
#             (which Caddy gets by itself) or the one that --certificate and --certificate-key name
# --rollback  go back to the release from before the last upgrade
# --keep-data leave the profile, keys, models and snapshots
# --dry-run   print every change instead of making it
#
# What --cpus, --proxy and the options that go with it say is kept in /etc/rayhost/install.conf for
# the next runs; an empty value ('') takes it back.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
dry='' action=install wheelhouse='' profile='' keep_data='' work=''
cpus='' proxy='' domain='' certificate='' certificate_key=''

# shellcheck source=deploy/service/common.sh
. "$here/service/common.sh"
# shellcheck source=deploy/service/python.sh
. "$here/service/python.sh"
# shellcheck source=deploy/service/release.sh
. "$here/service/release.sh"
# shellcheck source=deploy/service/proxy.sh
. "$here/service/proxy.sh"
# shellcheck source=deploy/service/uninstall.sh
. "$here/service/uninstall.sh"

option() { # name, value: one that later runs keep; status 1 for another
    case $1 in
    cpus) cpus=$2 ;;
    proxy) proxy=$2 ;;
    domain) domain=$2 ;;
    certificate) certificate=$2 ;;
    certificate-key) certificate_key=$2 ;;
    *) return 1 ;;
    esac
}

if [ -e $etc/install.conf ]; then
    while IFS='=' read -r name value; do
        option "$name" "$value" || fail "$etc/install.conf: unknown line: $name"
    done <$etc/install.conf
fi

while [ $# -gt 0 ]; do
    case $1 in
    --dry-run) dry=1 ;;
    --uninstall) action=uninstall ;;
    --rollback) action=rollback ;;
    --keep-data) keep_data=1 ;;
    --offline | --profile | --cpus | --proxy | --domain | --certificate | --certificate-key)
        [ $# -ge 2 ] || fail "$1 needs a value"
        case $1 in
        --offline) wheelhouse=$2 ;;
        --profile) profile=$2 ;;
        *) option "${1#--}" "$2" ;;
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
    if [ -s "$work/key" ]; then # also where a later step failed: it is shown only once
        echo "install: the first API key, shown only now: $(cat "$work/key")"
        echo "install: others: rayhost key add NAME --file $etc/keys.json"
    fi
    [ -z "$work" ] || rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 1' HUP INT TERM

installation() {
    find_wheelhouse
    inspect_wheelhouse
    choose_profile
    ours rayhost.deploy --out "$work" --only systemd --profile "$profile" --for-folder $etc \
        --cpus "$cpus" >/dev/null
    [ -z "$proxy" ] || prepare_proxy

    if ! getent passwd $user >/dev/null; then
        change "make the system user $user" \
            useradd --system --user-group --home-dir $state --shell /usr/sbin/nologin $user
    fi
    folder $prefix root:root 755
    folder $etc root:root 755
    folder $etc/secrets root:root 700
    prepare_release
    check_profile
    file "$work/install.conf" $etc/install.conf root:root 644
    use_release
    if [ "$(readlink $command)" != $prefix/current/bin/rayhost ]; then
        change "make the command $command" ln -sfn $prefix/current/bin/rayhost $command
    fi
    file "$profile" $etc/profile.json root:root 644
    if [ ! -e $etc/keys.json ]; then
        change 'make a first API key' first_key
    elif ! is_as $etc/keys.json root:$user 640; then # as from a backup of another machine
        change "let the service read $etc/keys.json" own_keys
    fi
    install_units
    start
    remove_proxies "$proxy"
    [ -z "$proxy" ] || install_proxy
    finish
}

# Sets `profile` to the one to serve, and writes what later runs are to know.
choose_profile() {
    if [ -z "$profile" ] && [ -e $etc/profile.json ]; then
        profile=$etc/profile.json
    elif [ -z "$profile" ]; then
        profile=$work/profile.json
        echo '{ "models": [{ "name": "smollm2-135m" }], "keys": "keys.json" }' >"$profile"
    fi
    [ -e "$profile" ] || fail "$profile: no such profile"
    [ ! -e $etc/profile.json ] || cp $etc/profile.json "$work/profile.before"
    for line in "cpus=$cpus" "proxy=$proxy" "domain=$domain" "certificate=$certificate" \
        "certificate-key=$certificate_key"; do
        [ -z "${line#*=}" ] || echo "$line"
    done >"$work/install.conf"
}

check_profile() { # By the release that is to serve it; a dry run may have none yet.
    if [ -e "$target/.complete" ]; then
        "$target/bin/rayhost" check "$profile" >/dev/null || fail 'the profile cannot be served'
    fi
}

first_key() {
    "$prefix/current/bin/rayhost" key add first --file "$work/keys.json" >"$work/new-key"
    put "$work/keys.json" $etc/keys.json root:$user 640
    mv "$work/new-key" "$work/key"
}

own_keys() { # Root's to write and the service's to read.
    chown root:$user $etc/keys.json
    chmod 640 $etc/keys.json
}

install_units() {
    stale=$(systemctl show --value --property=NeedDaemonReload \
        rayhost.slice rayhost.socket rayhost.service 2>/dev/null) || stale=''
    for unit in rayhost.slice rayhost.socket rayhost.service; do
        file "$work/systemd/$unit" $units/$unit root:root 644
        [ -z "$wrote" ] || stale=yes
    done
    case $stale in
    *yes*) change 'let systemd read its units again' systemctl daemon-reload ;;
    esac
}

start() {
    socket_now=$(sha256sum <"$work/systemd/rayhost.socket")
    service_now=$(service_digest "releases/$id" "$work/systemd")
    profile_now=$(sha256sum <"$profile")
    for unit in rayhost.socket rayhost.service; do
        if ! enabled $unit; then
            change "enable $unit" systemctl --quiet enable $unit
        fi
    done
    if active rayhost.socket && pending socket "$socket_now"; then
        # Another address: the service has to let go of the old one first.
        change 'start rayhost.socket anew, and stop rayhost.service for it' new_socket
    elif ! active rayhost.socket; then
        change 'start rayhost.socket' systemctl start rayhost.socket
    fi
    if ! active rayhost.service; then
        change 'start rayhost.service; a first start pulls the models' \
            systemctl start rayhost.service
    elif pending service "$service_now"; then
        change 'restart rayhost.service' systemctl restart rayhost.service
    elif pending profile "$profile_now"; then
        change 'let rayhost.service take in the profile' take_in_profile
    fi
    applied socket "$socket_now"
    applied service "$service_now"
    applied profile "$profile_now"
}

new_socket() {
    systemctl stop rayhost.service rayhost.socket
    systemctl start rayhost.socket
}

take_in_profile() { # One that the running host refuses is not left for its next start.
    if ! systemctl reload rayhost.service; then
        [ ! -e "$work/profile.before" ] || put "$work/profile.before" $etc/profile.json root:root 644
        fail 'the running host refuses the profile, as journalctl -u rayhost says;' \
            'that of before is back'
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
