#!/usr/bin/env bash
# Instructions of whole runs under callgrind: a figure that a busy machine does not move.
#
#   benches/instructions.sh           compares with benches/instructions.txt; exit 1 on a regression
#   benches/instructions.sh --write   measures anew and writes the baseline
#
# Needs valgrind and a release build (cargo build --release). README.md says how to read it.
set -euo pipefail
cd "$(dirname "$0")/.."
binary=${SERVESIM:-target/release/servesim}
baseline=benches/instructions.txt
# More than a compiler's or a library's minor version moves them.
tolerance_percent=3

scenarios=benches/scenarios
runs=(
    "start-up        run $scenarios/w1.toml --num-prompts 1"
    "red-hat         run redhat/llama-2-7b-g5.2xlarge"
    "w1              run $scenarios/w1.toml"
    "w1-caching      run $scenarios/w1.toml --enable-prefix-caching"
    "w1-step-by-step run $scenarios/w1.toml --step-by-step"
    "w3              run $scenarios/w3.toml"
)

measure() {
    local out
    out=$(mktemp)
    valgrind --tool=callgrind --callgrind-out-file=/dev/null --log-file="$out" \
        "$binary" "$@" > /dev/null
    sed -n 's/.*Collected : //p' "$out"
    rm -f "$out"
}

command -v valgrind > /dev/null || { echo "valgrind is not installed" >&2; exit 3; }
[ -x "$binary" ] || { echo "$binary is missing: cargo build --release" >&2; exit 3; }

lines=()
status=0
for run in "${runs[@]}"; do
    read -r name arguments <<< "$run"
    # shellcheck disable=SC2086
    count=$(measure $arguments)
    lines+=("$(printf '%-16s %12d' "$name" "$count")")
    was=$(awk -v name="$name" '$1 == name { print $2 }' "$baseline" 2> /dev/null || true)
    if [ -z "$was" ]; then
        printf '%-16s %12d\n' "$name" "$count"
        continue
    fi
    change=$(awk -v a="$count" -v b="$was" 'BEGIN { printf "%+.2f", (a / b - 1) * 100 }')
    verdict=
    if awk -v c="$change" -v t="$tolerance_percent" 'BEGIN { exit !(c > t) }'; then
        verdict="  REGRESSION"
        status=1
    fi
    printf '%-16s %12d  was %12d  %6s %%%s\n' "$name" "$count" "$was" "$change" "$verdict"
done

if [ "${1:-}" = --write ]; then
    printf '%s\n' "${lines[@]}" > "$baseline"
    exit 0
fi
exit "$status"
