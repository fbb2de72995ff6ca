#!/bin/sh
# Is what pip cannot bring here: a Python with venv, a C++ compiler, cmake?
# Prints the Python to use. What is missing comes on stderr, one line each with the command that
# mends it, and the exit status is 1; with --packages, the missing apt packages on stdout instead.
# PYTHON=... names the interpreter; without it the newest usable one on PATH is taken.
set -eu

missing=''
packages=''
sudo='sudo '
[ "$(id -u)" -ne 0 ] || sudo=''

lacks() { # what, apt package
    missing="$missing
setup: $1; to mend it: ${sudo}apt-get install -y $2"
    packages="$packages $2"
}

python=''
version=''
if [ -n "${PYTHON:-}" ]; then
    set -- "${1:-}" "$PYTHON"
else
    set -- "${1:-}" python3.13 python3.12 python3.11 python3
fi
mode=$1
shift
for candidate in "$@"; do
    # Running it is the test: a name on PATH may be a pyenv shim with nothing behind it.
    found=$("$candidate" -c 'import sys
if sys.version_info >= (3, 11): print("python%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
    [ -n "$found" ] || continue
    if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
        python=$candidate
        break
    fi
    version=${version:-$found}
done
if [ -n "$python" ]; then
    :
elif [ -n "${PYTHON:-}" ] && [ -z "$version" ]; then
    lacks "PYTHON=$PYTHON is not a Python 3.11 or newer" 'python3 python3-venv'
elif [ -n "$version" ]; then
    lacks "$version cannot make virtual environments (no ensurepip)" "$version-venv"
else
    lacks "no Python 3.11 or newer (Debian 12, Ubuntu 24.04 and later have one)" \
        'python3 python3-venv'
fi

# Compiling a line finds a compiler without its standard library, too.
compiler=''
for candidate in "${CXX:-c++}" g++ clang++; do
    if echo '#include <vector>' | "$candidate" -std=c++17 -fsyntax-only -x c++ - 2>/dev/null; then
        compiler=$candidate
        break
    fi
done
[ -n "$compiler" ] || lacks 'no working C++ compiler' 'g++'

cmake=$(cmake --version 2>/dev/null | sed -n '1s/^cmake version //p') || cmake=''
if [ -z "$cmake" ]; then
    lacks 'no cmake' 'cmake'
elif ! printf '3.21\n%s\n' "$cmake" | sort -V -C; then
    lacks "cmake $cmake is too old, 3.21 is needed" 'cmake'
fi

if [ "$mode" = --packages ]; then
    echo "${packages# }"
elif [ -n "$missing" ]; then
    echo "${missing#?}" >&2
    exit 1
else
    echo "$python"
fi
