#!/bin/bash
# Tries clipfeat with the lowest or the newest versions that pyproject.toml allows, under a Python of your choice.
#
#     scripts/try_versions.sh lowest python3.11
#     scripts/try_versions.sh newest python3.13
#     scripts/try_versions.sh newest python3.13 tests/fusion    other tests than the quick ones
#
# Builds the wheel, installs it in an environment of its own, and runs every --help, the demo and tests. Needs the
# package index and up to 10 GB in TMPDIR, and leaves nothing there. UV_CACHE_DIR names a folder that keeps downloads.

set -euo pipefail
usage="usage: scripts/try_versions.sh lowest|newest PYTHON [TESTS …]"
which=${1:?$usage}
python=$(command -v "${2:?$usage}") || { echo "$2: is no command; $usage" >&2; exit 2; }
shift 2
case $which in
    lowest) resolution=lowest-direct ;;
    newest) resolution=highest ;;
    *) echo "$which: expected lowest or newest; $usage" >&2; exit 2 ;;
esac
[ $# -gt 0 ] || set -- tests/cli tests/data

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export UV_CACHE_DIR=${UV_CACHE_DIR:-$work/cache}

echo "== the $which versions, $("$python" --version)"
"$python" -m venv "$work/tools"
cd "$(dirname "$0")/.."
"$work/tools/bin/pip" install --quiet uv
uv=$work/tools/bin/uv
"$uv" build --quiet --wheel --out-dir "$work/dist" .
"$uv" venv --quiet --python "$work/tools/bin/python" "$work/venv"
bin=$work/venv/bin
# Of the file itself, not of the wheel: only what it names is what uv takes the lowest of. The torchvision that
# open_clip brings is of one torch each; as the newest it would choose ours.
lowest_torch=$(sed -n 's/.*"torch>=\([0-9.]*\)".*/torch==\1/p' pyproject.toml)
if [ "$which" = lowest ]; then echo "${lowest_torch:?no bound of torch in pyproject.toml}"; fi > "$work/constraints.txt"
"$uv" pip install --quiet --python "$bin/python" --resolution "$resolution" --constraints "$work/constraints.txt" \
    -r pyproject.toml --extra cache
"$uv" pip install --quiet --python "$bin/python" --no-deps "$work"/dist/*.whl
"$uv" pip install --quiet --python "$bin/python" pytest pytest-timeout pytest-xdist
"$uv" pip check --python "$bin/python"
"$uv" pip freeze --python "$bin/python"

mkdir "$work/elsewhere"
(
    cd "$work/elsewhere"
    for command in "$bin"/clipfeat*; do
        echo "== $(basename "$command") --help"
        "$command" --help > /dev/null
    done
    echo "== the demo"
    "$bin/clipfeat-extract" experiment=demo
    test "$(find outputs/demo -name 'frame_*.npz' | wc -l)" = 10
)

echo "== pytest $*"
# Not python -m pytest, to which the checkout would be nearer than the wheel.
"$bin/pytest" -q -p no:cacheprovider "$@"
echo "== fine with the $which versions, $("$bin/python" --version)"
