# shellcheck shell=sh
# Takes the service away. Sourced by install.sh.
#
# Invariant: nothing is removed while something of it runs, and the units go last but for the user:
# so an interrupted run is finished by the next one.

uninstall() {
    remove_proxy nginx
    remove_proxy caddy
    stop_service
    [ -n "$dry" ] || await_end_of_processes
    set -- $command $prefix
    [ -n "$keep_data" ] || set -- "$@" $etc $state
    for path in "$@"; do
        if [ -e "$path" ] || [ -L "$path" ]; then
            change "remove $path" rm -rf "$path"
        fi
    done
    if [ -n "$(installed_units)" ]; then
        change 'remove the units' remove_units
    fi
    # Files that are kept go on belonging to it.
    if [ -z "$keep_data" ] && getent passwd $user >/dev/null; then
        change "remove the user $user" userdel $user
    fi
    finish
}

installed_units() {
    for unit in rayhost.socket rayhost.service rayhost.slice; do
        if [ -e $units/$unit ]; then
            echo $unit
        fi
    done
}

stop_service() {
    running=''
    for unit in $(installed_units); do
        if active "$unit" || enabled "$unit"; then
            running="$running $unit"
        fi
    done
    if [ -n "$running" ]; then
        # In one transaction: a client that comes while the service ends would start it again.
        # shellcheck disable=SC2086 # several words
        change "stop$running" systemctl --quiet disable --now $running
    fi
}

await_end_of_processes() {
    getent passwd $user >/dev/null || return 0
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        busy=$(find /proc -maxdepth 1 -name '[0-9]*' -user $user -printf '%f ' 2>/dev/null) || :
        [ -n "$busy" ] || return 0
        sleep 1
    done
    fail "processes of the user $user still run; end them, and run this again: $busy"
}

remove_units() {
    for unit in $(installed_units); do
        rm $units/"$unit"
    done
    systemctl daemon-reload
    systemctl reset-failed 'rayhost.*' 2>/dev/null || :
}
