#!/bin/sh
# Formats our C files in place, or with --check only says which are not formatted. Tables (*.def) and codegen/text/ are left alone.
set -eu
cd "$(dirname "$0")/.."
tool=$(command -v clang-format-14 || command -v clang-format) || { echo "clang-format-14 is missing" >&2; exit 1; }
if [ "${1:-}" = --check ]; then mode="--dry-run --Werror"; else mode=-i; fi
# tracked and new files, without what git ignores
git ls-files -z --cached --others --exclude-standard '*.c' '*.h' | xargs -0 -r "$tool" $mode
