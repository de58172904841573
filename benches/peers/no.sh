#!/usr/bin/env bash
# What a no costs: the server's CPU time for a 503, and for a connection that the gate drops, against a page of 13 KB
# from memory. The server on one core, wrk on another, each in turn, several rounds.
#
#   benches/peers/no.sh
#
# ROUNDS=5 SECONDS_EACH=2 CONNECTIONS=32; SERVER: a release build of the example `normal`, else it is built.
# Takes about ROUNDS × 7 × (SECONDS_EACH + 1) seconds after building.
# CPU time is what the server's threads take, and counts are the server's own: of what it has served, throttled and
# dropped. Of those that `stall` leaves waiting nobody counts any: for them it is the connections that wrk opens.
set -euo pipefail

rounds=${ROUNDS:-5} seconds=${SECONDS_EACH:-2} connections=${CONNECTIONS:-32}
cd "$(dirname "$0")/../.."

. benches/peers/common
needs "wrk, util-linux" wrk taskset
server=${SERVER:-}
[ -n "$server" ] || server=$(built_example normal)
work=$(mktemp -d)
pid=
finish() {
    if [ -n "$pid" ]; then kill "$pid" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap finish EXIT

# Prints microseconds of the server's CPU time for each of what is counted as OUTCOME.
measure() {
    local outcome=$1 closes=$2 cpu many=$connections
    shift 2
    taskset -c 0 "$server" layer "$@" >"$work/server" 2>"$work/errors" &
    pid=$!
    for _ in $(seq 100); do
        if [ -s "$work/server" ]; then break; fi
        sleep 0.05
    done
    # Time for the level that is held.
    sleep 0.5
    [ "$outcome" = waiting ] && many=1000
    cpu=$(cpu_time "$pid")
    # (wrk looks whether the server is there, and fails where nothing answers at all.)
    taskset -c 1 timeout $((seconds + 10)) wrk -t1 -c"$many" -d"${seconds}s" ${closes:+-H "Connection: close"} \
        "http://$(head -1 "$work/server")/" >"$work/wrk" 2>&1 || true
    cpu=$(($(cpu_time "$pid") - cpu))
    kill "$pid"
    wait "$pid" || true
    pid=
    awk -v outcome="$outcome" -v cpu="$cpu" -v many="$many" '
        /^level/ {for (i = 1; i < NF; i++) count[$i] = $(i + 1)}
        END {
            count["waiting"] = many
            if (count[outcome] < 1000) {print "no.sh: only " count[outcome] + 0 " " outcome >"/dev/stderr"; exit 1}
            print cpu / count[outcome] / 1000
        }' "$work/server"
}

echo "$(nproc) cores, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1), Linux $(uname -r), $(date -u +%F)"
echo "ROUNDS=$rounds SECONDS_EACH=$seconds CONNECTIONS=$connections $0"
for _ in $(seq "$rounds"); do
    measure served '' >>"$work/page"
    measure throttled '' throttle >>"$work/503"
    measure served close >>"$work/page-new"
    measure throttled close throttle >>"$work/503-new"
    measure dropped close drop close >>"$work/close-new"
    measure dropped close drop reset >>"$work/reset-new"
    measure waiting close drop stall >>"$work/stall-new"
done
printf '%28s %10s %22s\n' '' 'µs of CPU' "of the page's, median"
for what in page 503 page-new 503-new close-new reset-new stall-new; do
    page=page
    case $what in *-new) page=page-new ;; esac
    printf '%28s %10.2f %22.2f\n' "${what/-new/, a new connection}" "$(median <"$work/$what")" \
        "$(paste "$work/$what" "$work/$page" | awk '{print $1 / $2}' | median)"
done
