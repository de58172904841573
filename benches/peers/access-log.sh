#!/usr/bin/env bash
# Requests a second with the access log against without it: `overspill serve` with a folder whose page is hot, the server
# on one core, wrk on another, in pairs by turns.
#
#   benches/peers/access-log.sh [FORMAT]        default: combined; or common, json
#
# PAIRS=7 SECONDS_EACH=3 CONNECTIONS=32; SERVER: a release build of `overspill`, else it is built; LOG: where lines go
# (default: a file in /dev/shm, so that no disk is measured). The page has SIZE=1024 bytes: the smaller, the more a line
# weighs.
# Takes about PAIRS × 2 × (SECONDS_EACH + 2) seconds after building.
# Prints each pair's ratios and their medians: of requests a second, and of the server's CPU time for a request (its thread
# that writes included).
set -euo pipefail

format=${1:-combined}
pairs=${PAIRS:-7} seconds=${SECONDS_EACH:-3} connections=${CONNECTIONS:-32} size=${SIZE:-1024}
cd "$(dirname "$0")/../.."

. benches/peers/common
needs "wrk, util-linux, curl" wrk taskset curl
server=${SERVER:-}
if [ -z "$server" ]; then
    cargo build --quiet --release --bin overspill
    server=target/release/overspill
fi
work=$(mktemp -d -p /dev/shm)
log=${LOG:-$work/access.log}
pid=
finish() {
    if [ -n "$pid" ]; then kill "$pid" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap finish EXIT

mkdir "$work/site"
head -c "$size" /dev/zero | tr '\0' 'x' >"$work/site/page.txt"
cat >"$work/overspill.toml" <<CONFIG
primary.listen = "127.0.0.1:18089"
primary.site = "$work/site"
admin.listen = "127.0.0.1:18090"
load.cpu.enabled = false
load.bandwidth.enabled = false
CONFIG

echo "$(nproc) cores, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1), Linux $(uname -r), $(date -u +%F)"
echo "PAIRS=$pairs SECONDS_EACH=$seconds CONNECTIONS=$connections SIZE=$size $0 $format"

# Prints requests a second, microseconds of the server's CPU time for a request, and lines for a request.
measure() {
    local url=http://127.0.0.1:18089/page.txt cpu
    rm -f "$work/access.log"
    OVERSPILL__ACCESS_LOG__PATH=$1 OVERSPILL__ACCESS_LOG__FORMAT=$format \
        taskset -c 0 "$server" serve --config "$work/overspill.toml" 2>"$work/errors" &
    pid=$!
    for _ in $(seq 100); do
        if curl -sf http://127.0.0.1:18090/readyz >/dev/null; then break; fi
        sleep 0.05
    done
    taskset -c 1 wrk -t1 -c"$connections" -d1s -H 'User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0' \
        -H 'Referer: http://www.example.com/some/page' "$url" >/dev/null
    cpu=$(cpu_time "$pid")
    taskset -c 1 timeout $((seconds + 10)) wrk -t1 -c"$connections" -d"${seconds}s" \
        -H 'User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0' \
        -H 'Referer: http://www.example.com/some/page' "$url" >"$work/wrk"
    cpu=$(($(cpu_time "$pid") - cpu))
    curl -s http://127.0.0.1:18090/metrics | grep '^overspill_access_log_lines_total' >"$work/lines" || true
    kill "$pid"
    wait "$pid" || true
    pid=
    if grep -q 'Socket errors\|Non-2xx' "$work/wrk"; then
        cat "$work/wrk" >&2
        return 1
    fi
    awk -v cpu="$cpu" '/requests in/ {count = $1} /^Requests\/sec/ {print $2, cpu / count / 1000}' "$work/wrk"
}

printf '%4s %12s %12s %8s %10s %10s %8s %6s\n' pair "on/s" "off/s" ratio "on µs" "off µs" ratio load
for pair in $(seq "$pairs"); do
    # Whoever is second has a warmer machine: by turns.
    if [ $((pair % 2)) = 1 ]; then
        measure "$log" >"$work/with"
        cp "$work/lines" "$work/counted"
        measure "" >"$work/without"
    else
        measure "" >"$work/without"
        measure "$log" >"$work/with"
        cp "$work/lines" "$work/counted"
    fi
    read -r rate cost <"$work/with"
    read -r bare_rate bare_cost <"$work/without"
    awk -v p="$pair" -v a="$rate" -v b="$bare_rate" -v c="$cost" -v d="$bare_cost" -v l="$(cut -d' ' -f1 /proc/loadavg)" '
        END {printf "%4d %12.0f %12.0f %8.4f %10.3f %10.3f %8.4f %6s\n", p, a, b, a / b, c, d, d / c, l}' </dev/null
    awk "BEGIN {print $rate / $bare_rate}" >>"$work/rates"
    awk "BEGIN {print $bare_cost / $cost}" >>"$work/costs"
done
printf 'median of requests a second, on / off: %.4f\n' "$(median <"$work/rates")"
printf 'median of CPU time for a request, off / on: %.4f\n' "$(median <"$work/costs")"
echo "lines of the last run:"
cat "$work/counted"
