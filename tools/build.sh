#!/bin/sh
# Configures and builds one preset (release when none is named), in build/PRESET.
set -eu
cd "$(dirname "$0")/.."
preset=${1:-release}
[ -f "build/$preset/build.ninja" ] || cmake --preset "$preset"
cmake --build "build/$preset"
