# shellcheck shell=sh
# Which Python is used, for all scripts here; sourced.

# Sets `python` to an interpreter that can make virtual environments: PYTHON if that is set, else the
# newest on PATH. Where there is none the status is 1, `lacking` says why, and `packages_of_python` are
# those that bring one.
choose_python() { # the version it has to be, as in 3.11, or '' for any that is new enough
    if [ -n "${PYTHON:-}" ]; then
        set -- "$1" "$PYTHON"
    elif [ -n "$1" ]; then
        set -- "$1" "python$1" python3
    else
        set -- '' python3.13 python3.12 python3.11 python3
    fi
    wanted=$1
    shift
    python='' found_without_venv=''
    for candidate in "$@"; do
        # Running it is the test: a name on PATH may be a pyenv shim with nothing behind it.
        found=$("$candidate" -c 'import sys
if sys.version_info >= (3, 11): print("python%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
        case $found in
        '') continue ;;
        "python${wanted:-${found#python}}") ;;
        *) continue ;;
        esac
        if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
            python=$candidate
            return 0
        fi
        found_without_venv=${found_without_venv:-$found}
    done
    packages_of_python='python3 python3-venv'
    if [ -n "$found_without_venv" ]; then
        lacking="$found_without_venv cannot make virtual environments (no ensurepip)"
        packages_of_python=$found_without_venv-venv
    elif [ -n "${PYTHON:-}" ]; then
        lacking="PYTHON=$PYTHON is not a Python ${wanted:-3.11 or newer}"
    elif [ -n "$wanted" ]; then
        lacking="no Python $wanted, for which the wheels are"
        packages_of_python=python$wanted-venv
    else
        lacking='no Python 3.11 or newer (Debian 12, Ubuntu 24.04 and later have one)'
    fi
    return 1
}
