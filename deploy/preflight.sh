#!/bin/sh
# Is what pip cannot bring here: a Python with venv, a C++ compiler, cmake?
# Prints the Python to use. What is missing comes on stderr, one line each with the command that
# mends it, and the exit status is 1; with --packages, the missing apt packages on stdout instead.
# PYTHON=... names the interpreter; without it the newest usable one on PATH is taken.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
# shellcheck source=deploy/service/python.sh
. "$here/service/python.sh"

missing=''
packages=''
sudo='sudo '
[ "$(id -u)" -ne 0 ] || sudo=''

lacks() { # what, apt package
    missing="$missing
setup: $1; to mend it: ${sudo}apt-get install -y $2"
    packages="$packages $2"
}

mode=${1:-}
choose_python '' || lacks "$lacking" "$packages_of_python"

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
