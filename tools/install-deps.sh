#!/bin/sh
# Installs the Debian packages that a goal needs, and only when one is missing.
# usage: install-deps.sh build|demo|test|bench|format
set -eu

build="gcc libc6-dev cmake ninja-build pkgconf libxml2-dev libdnnl-dev libjansson-dev libxxhash-dev zlib1g-dev libutf8proc-dev
       libjpeg62-turbo-dev libpng-dev libcmocka-dev libopenmpi-dev openmpi-bin"
demo="dataset-fashion-mnist"
format="clang-format-14"
test="dataset-fashion-mnist clang libclang-rt-14-dev libxml2-utils $format"
bench="python3 python3-venv"

case ${1:-} in
build) packages=$build ;;
demo) packages="$build $demo" ;;
test) packages="$build $test" ;;
bench) packages="$build $bench" ;;
format) packages=$format ;;
*) echo "usage: $0 build|demo|test|bench|format" >&2; exit 2 ;;
esac

missing=
for package in $packages; do
    dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

sudo=
if [ "$(id -u)" != 0 ]; then
    if command -v sudo >/dev/null; then
        sudo=sudo
    else
        echo "these packages are missing, and only root can install them:$missing" >&2
        echo "run as root: apt-get install -y --no-install-recommends$missing" >&2
        exit 1
    fi
fi
echo "installing:$missing"
$sudo apt-get update -qq
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
