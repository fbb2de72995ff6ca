# shellcheck shell=sh
# The reverse proxy in front of the service, nginx or Caddy: its configuration put into place, and
# taken away again. Sourced by install.sh.
#
# Of nginx we have a file beside those of others, Caddy has one for all: a Caddyfile that somebody
# wrote or changed is neither replaced nor removed, the one of the package is laid aside and brought
# back.

nginx_file=/etc/nginx/conf.d/rayhost.conf
caddy_file=/etc/caddy/Caddyfile

is_ours() { # nginx or caddy: is its configuration ours to replace?
    case $1 in
    nginx) head -n 1 $nginx_file 2>/dev/null | grep -q '^# rayhost behind ' ;;
    caddy) [ -e $caddy_file ] && ! pending caddy "$(sha256sum <$caddy_file)" ;;
    esac
}

# Renders the configuration, and ends where it cannot be used: before anything is changed.
prepare_proxy() {
    case $proxy in
    nginx) package=nginx-light rendered=$work/proxy/nginx.conf place=$nginx_file ;;
    caddy) package=caddy rendered=$work/proxy/Caddyfile place=$caddy_file ;;
    *) fail "--proxy $proxy: expected nginx or caddy" ;;
    esac
    ours rayhost.deploy --out "$work" --profile "$profile" --proxy "$proxy" --domain "$domain" \
        --certificate "$certificate" --certificate-key "$certificate_key" >/dev/null
    command -v "$proxy" >/dev/null || fail "no $proxy; to mend it: apt-get install -y $package"
    for path in $(sed -n 's/^ *ssl_certificate\(_key\)\{0,1\} \(.*\);$/\2/p' "$rendered") \
        $certificate $certificate_key; do
        [ -e "$path" ] || fail "no certificate $path; docs/deploy.md says how to get one," \
            'or name yours with --certificate FILE --certificate-key FILE'
    done
    if lies_in_the_way && ! of_package; then
        fail "$place is somebody's own; put what \`rayhost deploy render --proxy caddy\` writes" \
            'into it yourself'
    fi
}

lies_in_the_way() { # Is there a Caddyfile of another?
    [ "$proxy" = caddy ] && [ -e "$place" ] && ! cmp -s "$rendered" "$place" && ! is_ours caddy
}

of_package() { # Is the Caddyfile as Debian's package brought it?
    dpkg-query -W -f '${Conffiles}\n' caddy 2>/dev/null |
        grep -q "$caddy_file $(md5sum <$caddy_file | cut -d ' ' -f 1)"
}

install_proxy() {
    [ ! -e "$place" ] || cp "$place" "$work/proxy.before"
    if lies_in_the_way; then
        change "lay $place aside" mv "$place" "$place.before-rayhost"
    fi
    file "$rendered" "$place" root:root 644
    [ -n "$dry" ] || check_proxy
    if ! enabled "$proxy.service"; then
        change "enable $proxy.service" enable_proxy
    fi
    digest=$(sha256sum <"$rendered")
    if ! active "$proxy.service"; then
        change "start $proxy.service" systemctl start "$proxy.service"
    elif pending "$proxy" "$digest"; then
        change "let $proxy.service take in its configuration" systemctl reload "$proxy.service"
    fi
    applied "$proxy" "$digest"
}

check_proxy() { # What does not pass is not left where it would end the proxy at its next start.
    case $proxy in
    nginx) set -- nginx -t -q ;;
    caddy) set -- caddy validate --config "$place" ;;
    esac
    if ! "$@" >"$work/proxy.log" 2>&1; then
        if [ -e "$work/proxy.before" ]; then
            cp "$work/proxy.before" "$place"
        else
            rm "$place"
        fi
        cat "$work/proxy.log" >&2
        fail "$proxy refuses its configuration; $place is as it was"
    fi
}

enable_proxy() {
    mkdir -p $prefix/applied
    touch "$prefix/applied/enabled-$proxy"
    # Not its start script of SysV as well, which systemctl would rename.
    SYSTEMCTL_SKIP_SYSV=1 systemctl --quiet enable "$proxy.service"
}

remove_proxies() { # but this one: of the others, what an earlier run installed
    for kind in nginx caddy; do
        if [ "$kind" != "$1" ] && [ -e "$prefix/applied/$kind" ]; then
            remove_proxy $kind
        fi
    done
}

remove_proxy() { # nginx or caddy: what is ours of it, if anything
    case $1 in
    nginx) left=$nginx_file ;;
    caddy) left=$caddy_file ;;
    esac
    if is_ours "$1" && [ -e "$left.before-rayhost" ]; then
        change "bring back $left of before" mv "$left.before-rayhost" "$left"
    elif is_ours "$1"; then
        change "remove $left" rm "$left"
    elif [ ! -e "$prefix/applied/$1" ]; then
        return
    elif [ -e "$left" ] && ! of_package; then
        echo "install: somebody changed $left, which is left there"
        return
    fi
    if [ -e "$prefix/applied/enabled-$1" ]; then
        change "stop and disable $1.service" \
            env SYSTEMCTL_SKIP_SYSV=1 systemctl --quiet disable --now "$1.service"
    elif active "$1.service"; then
        change "let $1.service take in its configuration" systemctl reload "$1.service"
    fi
    [ -n "$dry" ] || rm -f "$prefix/applied/enabled-$1" "$prefix/applied/$1"
}
