#!/usr/bin/env bash
# Requests a second with the layer at level `normal` against without it: the same handler (a 13 KB page from
# memory), the server on one core, wrk on another, in pairs by turns.
#
#   benches/peers/normal.sh [WITH [WITHOUT]]        default: layer bare (see normal.rs for the variants)
#
# PAIRS=10 SECONDS_EACH=3 CONNECTIONS=32; SERVER: a release build of the example `normal`, else it is built.
# Takes about PAIRS × 2 × (SECONDS_EACH + 2) seconds after building.
# Prints each pair's ratios and their medians: of requests a second, and of the server's CPU time for a
# request (without / with, so that above 1 is better in both). The second is steadier where others use the
# cores, too. The signal `cpu` is off: the level must stay `normal` while the server's core is busy.
set -euo pipefail

with=${1:-layer} without=${2:-bare}
pairs=${PAIRS:-10} seconds=${SECONDS_EACH:-3} connections=${CONNECTIONS:-32}
cd "$(dirname "$0")/../.."

. benches/peers/common
needs "wrk, util-linux" wrk taskset
if [ "$(nproc)" -lt 2 ]; then
    echo "normal.sh: needs two cores, found $(nproc)" >&2
    exit 1
fi

server=${SERVER:-}
[ -n "$server" ] || server=$(built_example normal)
work=$(mktemp -d)
pid=
finish() {
    if [ -n "$pid" ]; then kill "$pid" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap finish EXIT

echo "$(nproc) cores, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1), Linux $(uname -r), $(date -u +%F)"
echo "PAIRS=$pairs SECONDS_EACH=$seconds CONNECTIONS=$connections $0 $with $without"
echo "server: taskset -c 0 normal VARIANT; client: taskset -c 1 wrk -t1 -c$connections -d${seconds}s URL"

# Prints requests a second and microseconds of the server's CPU time for a request.
measure() {
    local variant=$1 url cpu
    taskset -c 0 "$server" "$variant" >"$work/server" 2>"$work/errors" &
    pid=$!
    for _ in $(seq 100); do
        if [ -s "$work/server" ]; then break; fi
        sleep 0.05
    done
    if ! [ -s "$work/server" ]; then
        echo "normal.sh: the server did not start: $(cat "$work/errors")" >&2
        return 1
    fi
    url="http://$(head -1 "$work/server")/"
    taskset -c 1 wrk -t1 -c"$connections" -d1s "$url" >/dev/null
    cpu=$(cpu_time "$pid")
    taskset -c 1 timeout $((seconds + 10)) wrk -t1 -c"$connections" -d"${seconds}s" "$url" >"$work/wrk"
    cpu=$(($(cpu_time "$pid") - cpu))
    kill "$pid"
    wait "$pid" || true
    pid=
    if grep -q 'Socket errors\|Non-2xx' "$work/wrk"; then
        cat "$work/wrk" >&2
        return 1
    fi
    if grep -q '^level' "$work/server" && ! grep -q '^level normal' "$work/server"; then
        echo "normal.sh: the level did not stay normal: $(tail -1 "$work/server")" >&2
        return 1
    fi
    awk -v cpu="$cpu" '/requests in/ {count = $1} /^Requests\/sec/ {print $2, cpu / count / 1000}' "$work/wrk"
}

printf '%4s %12s %12s %8s %10s %10s %8s %6s\n' \
    pair "$with/s" "$without/s" ratio "$with µs" "$without µs" ratio load
for pair in $(seq "$pairs"); do
    # Whoever is second has a warmer machine: by turns.
    if [ $((pair % 2)) = 1 ]; then
        measure "$with" >"$work/with"
        measure "$without" >"$work/without"
    else
        measure "$without" >"$work/without"
        measure "$with" >"$work/with"
    fi
    read -r rate cost <"$work/with"
    read -r bare_rate bare_cost <"$work/without"
    awk -v p="$pair" -v a="$rate" -v b="$bare_rate" -v c="$cost" -v d="$bare_cost" -v l="$(cut -d' ' -f1 /proc/loadavg)" '
        END {printf "%4d %12.0f %12.0f %8.4f %10.3f %10.3f %8.4f %6s\n", p, a, b, a / b, c, d, d / c, l}' </dev/null
    awk "BEGIN {print $rate / $bare_rate}" >>"$work/rates"
    awk "BEGIN {print $bare_cost / $cost}" >>"$work/costs"
done
printf 'median of requests a second, %s / %s: %.4f\n' "$with" "$without" "$(median <"$work/rates")"
printf 'median of CPU time for a request, %s / %s: %.4f\n' "$without" "$with" "$(median <"$work/costs")"
