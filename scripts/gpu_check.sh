#!/usr/bin/env bash
# The GPU tests, and what a frame costs on this machine, in less than 8 minutes.
#
#     OUT=results bash scripts/gpu_check.sh
#     DRY=1 OUT=/tmp/results bash scripts/gpu_check.sh     the same on a CPU, with little of each: that it can be run
#
# Needs a GPU and python3 with torch, timm, numba, h5py, matplotlib, scikit-learn, pytest and pytest-timeout, but no
# network: packages that python3 lacks lie as wheels in .whl (WHL names another folder), where these bring them:
#
#     pip download -q --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux2014_x86_64 \
#         --platform manylinux_2_28_x86_64 -d .whl ftfy 'hydra-core<1.4' isal lmdb 'omegaconf<2.4' open_clip_torch \
#         simplejpeg trimesh wcwidth
#     pip wheel -q --no-deps -w .whl antlr4-python3-runtime==4.9.3
#
# clipfeat is that of the checkout. What fails is told, and the rest goes on. Writes into OUT: gpu_tests.txt, profile.txt,
# profile.json, extract.txt, benchmark.txt, benchmark.md, benchmark.json, attention.txt and smi.csv. LIMIT is how many
# seconds all of it may take (460), PYTHON another python3.

set -uo pipefail
begin=$SECONDS
checkout=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "${OUT:=outputs/gpu_check}" && OUT=$(cd "$OUT" && pwd) || exit
python=${PYTHON:-python3} work=$(mktemp -d)
trap 'kill "${smi:-}" 2> /dev/null; rm -rf "$work"' EXIT

slower=1 device=cuda arch=ViT-B-16 copies=48 frames=160
if [ -n "${DRY:-}" ]; then slower=4 device=cpu arch=ViT-S-32 copies=1 frames=8; fi

say() { echo "[$((SECONDS - begin)) s] $*" | tee -a "$OUT/profile.txt"; }
left() { echo $((${LIMIT:-460} * slower - (SECONDS - begin))); }
part() {  # seconds that it may take, file in OUT of what it says, title, command …
    local most=$(($1 * slower)) file=$OUT/$2 title=$3 status
    shift 3
    [ "$(left)" -gt "$most" ] || most=$(left)
    if [ "$most" -lt 10 ]; then say "$title: no time left"; return; fi
    say "$title"
    if [ "$file" = "$OUT/profile.txt" ]; then
        timeout "$most" "$@" 2>&1 | tee -a "$file"
    else
        timeout "$most" "$@" > "$file" 2>&1
    fi
    status=${PIPESTATUS[0]}
    [ "$file" = "$OUT/profile.txt" ] || tail -n 12 "$file" | tee -a "$OUT/profile.txt"
    [ "$status" = 0 ] || say "$title FAILED ($status; 124 is out of time)"
}

rm -f "$OUT"/{{gpu_tests,profile,extract,benchmark,attention}.txt,profile.json,benchmark.{md,json},smi.csv}
shopt -s nullglob
wheels=("${WHL:-$checkout/.whl}"/*.whl)
if [ ${#wheels[@]} -gt 0 ]; then
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$work/site" \
        "${wheels[@]}" || exit
fi
# The checkout is not installed, but runs say its version.
mkdir -p "$work/site/clipfeat-0.dist-info"
printf 'Metadata-Version: 2.1\nName: clipfeat\nVersion: %s\n' \
    "$(sed -n 's/^__version__ = "\(.*\)"/\1/p' "$checkout/clipfeat/__init__.py")" \
    > "$work/site/clipfeat-0.dist-info/METADATA"
export PYTHONPATH=$work/site:$checkout${PYTHONPATH:+:$PYTHONPATH}
export HF_HUB_OFFLINE=1 NUMBA_CACHE_DIR=$work/numba
cd "$work" || exit  # what is left behind is left there

say "$("$python" --version), $(nproc) cores, $(df -h . | awk 'END {print $4}') of disk free"
if command -v nvidia-smi > /dev/null; then
    nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader | tee -a "$OUT/profile.txt"
    nvidia-smi --query-gpu=timestamp,utilization.gpu,memory.used --format=csv,noheader -lms 500 > "$OUT/smi.csv" &
    smi=$!
fi

profile=("$python" "$checkout/scripts/gpu_profile.py")
settings=("$work/scans" --arch "$arch" --device "$device" --out "$OUT")
benchmark=("$python" "$checkout/scripts/benchmark.py" --frames "$frames" --rounds 1)
model=(model.arch="$arch" model.pretrained=null device="$device")

# Without the flags of pyproject.toml, which are for pytest-xdist.
part 150 gpu_tests.txt "pytest -m gpu" "$python" -m pytest -q -ra --timeout=120 -o addopts= -m gpu \
    -p no:cacheprovider --basetemp="$work/pytest" "$checkout"/tests/{model,sampling,fusion,gpu}
part 60 profile.txt "scans" "${profile[@]}" scans "$work/scans" --copies "$copies"
part 110 profile.txt "parts" "${profile[@]}" parts "${settings[@]}"
part 130 profile.txt "runs" "${profile[@]}" runs "${settings[@]}" --seconds $((120 * slower))
part 90 benchmark.txt "benchmark.py" "${benchmark[@]}" --out "$work/benchmark" \
    data=scannet data.root="$work/scans" "${model[@]}"
cp "$work"/benchmark/benchmark.{md,json} "$OUT" 2> /dev/null
part 40 attention.txt "benchmark.py --attention" "${benchmark[@]}" --attention "${model[@]}"
say "done"
