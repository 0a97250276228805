#!/usr/bin/env bash
# Make sure that a machine without a display can open a napari window: Xvfb and the libraries that Qt and OpenGL load.
# Installs what is missing where it may (Debian or Ubuntu, as root or with passwordless sudo), otherwise says what to
# install and fails. Does nothing where there is a display, and outside Linux.
set -euo pipefail

[ "$(uname -s)" = Linux ] || exit 0
[ -z "${DISPLAY:-}" ] || exit 0

# a|b: the package has one name or the other, by release
packages=(
    xvfb xauth
    libgl1 libgl1-mesa-dri libegl1 libfontconfig1 "libglib2.0-0|libglib2.0-0t64" libdbus-1-3
    libxkbcommon-x11-0 libxcb-cursor0 libxcb-icccm4 libxcb-keysyms1 libxcb-shape0
)

if ! command -v dpkg-query >/dev/null; then
    command -v xvfb-run >/dev/null && exit 0
    echo "The tests open windows, and this machine has no display. Install Xvfb (with xvfb-run), OpenGL, EGL and the" \
        "xcb libraries of your distribution; on Debian these are: ${packages[*]}" >&2
    exit 1
fi

is_installed() {
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

is_missing() {
    local name
    for name in ${1//|/ }; do
        if is_installed "$name"; then return 1; fi
    done
}

missing=()
for package in "${packages[@]}"; do
    if is_missing "$package"; then missing+=("$package"); fi
done
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
    as_root=(false)
elif [ "$(id -u)" = 0 ]; then
    as_root=(env)
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root=(sudo -n env)
else
    as_root=(false)
fi

if [ "${as_root[0]}" = false ]; then
    echo "The tests open windows, and this machine has no display. Install these packages and try again:" >&2
    echo "    sudo apt-get install ${missing[*]%%|*}" >&2
    exit 1
fi

echo "Installing what a window needs: ${missing[*]%%|*}"
"${as_root[@]}" DEBIAN_FRONTEND=noninteractive apt-get update -q
names=()
for package in "${missing[@]}"; do
    # the first of its names that this release knows
    for name in ${package//|/ }; do
        if [ -n "$(apt-cache show "$name" 2>/dev/null)" ]; then
            names+=("$name")
            continue 2
        fi
    done
    names+=("${package%%|*}")
done
"${as_root[@]}" DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${names[@]}"
