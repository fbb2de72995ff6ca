#!/bin/sh
# Installs rayhost into .venv: what serving needs, or with the argument `dev` what tests and lint
# need as well. Does nothing when that is there already, which takes a few milliseconds.
#
# A stamp is written last and names what was installed (this path, pyproject.toml and
# constraints.txt), so an interrupted setup goes on where pip's cache lets it, and changed
# requirements are installed by the next one.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cd "$here/.."

case ${1:-} in
'') stamps='runtime' requirement='.' ;;
dev) stamps='dev runtime' requirement='.[dev]' ;;
*)
    echo 'usage: setup.sh [dev]' >&2
    exit 2
    ;;
esac

wanted=$({ pwd && cat pyproject.toml constraints.txt; } | sha256sum)
installed() { # Each stamp is there and names this state.
    for stamp in $stamps; do
        [ "$(cat ".venv/.installed-$stamp" 2>/dev/null)" = "$wanted" ] || return 1
    done
}
installed && exit 0

# One setup at a time: `make serve` and `make test` may start together.
exec 9<"$here/setup.sh"
if ! flock -n 9; then
    echo 'setup: waiting for another setup to finish'
    flock 9
    installed && exit 0
fi

python=$("$here/preflight.sh")

# .made says that this venv was made here, to its end: a copy's scripts would run the original.
if [ "$(cat .venv/.made 2>/dev/null)" != "$(pwd)" ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1
then
    echo "setup: making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv
    pwd >.venv/.made
fi

.venv/bin/python "$here/install.py" .venv/setup.log -c constraints.txt -e "$requirement"
for stamp in $stamps; do
    echo "$wanted" >".venv/.installed-$stamp"
done
