# shellcheck shell=sh
# Releases of rayhost side by side in /opt/rayhost/releases, of which `current` points to one: an
# upgrade is prepared beside the running one, and takes over in one restart that refuses no
# connection. Sourced by install.sh.

is_wheelhouse() { # folder
    for wheel in "$1"/rayhost-*.whl; do
        [ -e "$wheel" ]
        return
    done
}

# Sets `wheelhouse` to the absolute path of what --offline named, of the folder that install.sh lies
# in if that is one, or of a new one.
find_wheelhouse() {
    if [ -z "$wheelhouse" ] && is_wheelhouse "$here"; then
        wheelhouse=$here
    elif [ -z "$wheelhouse" ]; then
        builder=$("$here/preflight.sh")
        "$builder" -m venv "$work/build"
        echo 'install: building a wheelhouse; compiling llama.cpp takes minutes'
        "$work/build/bin/python" "$here/wheelhouse.py" "$work/wheelhouse"
        wheelhouse=$work/wheelhouse
    fi
    is_wheelhouse "$wheelhouse" || fail "$wheelhouse: no wheelhouse; make one with: make wheelhouse"
    wheelhouse=$(CDPATH='' cd -- "$wheelhouse" && pwd)
}

# Sets `python`, the one that the wheels are for, and `id` and `target`, the release's name and
# folder. Ends where the machine cannot run it.
inspect_wheelhouse() {
    built=$wheelhouse/built-for.json
    wanted=''
    [ ! -e "$built" ] || wanted=$(sed -n 's/^ *"python": "\([0-9.]*\)".*/\1/p' "$built")
    choose_python "$wanted" || fail "$lacking; to mend it: apt-get install -y $packages_of_python"
    if [ -e "$built" ]; then
        why=$(ours rayhost.deploy.built_for check "$built") || fail "$wheelhouse: $why; make one on such a machine"
    fi
    ldconfig -p | grep -q libgomp.so.1 ||
        fail 'no libgomp, which llama.cpp needs; to mend it: apt-get install -y libgomp1'
    for wheel in "$wheelhouse"/rayhost-*.whl; do
        version=${wheel##*/rayhost-}
        version=${version%%-*}
    done
    sum=$(cd "$wheelhouse" && "$python" -V | cat - ./*.whl | sha256sum | cut -c 1-8)
    id=$version-$sum
    target=$prefix/releases/$id
}

ours() { # module, arguments...: run it from the wheel
    module=$1
    shift
    PYTHONPATH=$(printf '%s' "$wheelhouse"/rayhost-*.whl) "$python" -m "$module" "$@"
}

prepare_release() {
    if [ ! -e "$target/.complete" ]; then
        change "install release $id into $target" install_release
    fi
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

rollback() {
    before=$(readlink $prefix/previous) || fail 'there is no release to go back to'
    now=$(readlink $prefix/current)
    change "go back to release ${before##*/}" ln -sfn "$before" $prefix/current
    [ -n "$dry" ] || ln -sfn "$now" $prefix/previous
    change 'restart rayhost.service' systemctl restart rayhost.service
    applied service "$(service_digest "$before" $units)"
}
