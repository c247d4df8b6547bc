#!/usr/bin/env bash
# Runs findings: those named, or all. Prints pass or fail and the seconds of each; exits with 1 if one fails.
#
#   findings/run.sh                         # all, one after another
#   findings/run.sh video_hdr evo_pairs_twice
#
# Needs python3 and the package index. What a finding prints is shown where it fails.
set -uo pipefail
cd "$(dirname "$0")"
names=("$@")
if [ $# -eq 0 ]; then
    for script in *.sh; do
        [ "$script" = run.sh ] || names+=("${script%.sh}")
    done
fi
output=$(mktemp)
trap 'rm -f "$output"' EXIT
failed=0
for name in "${names[@]}"; do
    name=${name%.sh}
    if [ "$name" = run ] || [ ! -f "$name.sh" ]; then
        echo "no finding of this name: $name (see README.md)" >&2
        failed=1
        continue
    fi
    start=$SECONDS
    if bash "$name.sh" > "$output" 2>&1; then
        verdict=pass
    else
        verdict=fail failed=1
        cat "$output"
    fi
    printf '%s %s %d s\n' "$verdict" "$name" $((SECONDS - start))
done
exit $failed
