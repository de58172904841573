#!/usr/bin/env bash
# Requests a second passed on to an application, and how long they take, against nginx's `proxy_pass` with kept
# connections: one core for the server, wrk and the application (an nginx that answers from memory) on another, each in
# turn, several rounds.
#
#   benches/peers/upstream.sh
#
# ROUNDS=5 SECONDS_EACH=3 CONNECTIONS=64 SIZES="1 13 100" (kilobytes) VARIANTS="overspill nginx". PROGRAM: a release build
# of `overspill`, else it is built. Takes about ROUNDS × sizes × variants × (SECONDS_EACH + 2) seconds after building.
# Latencies are those of as many requests as each takes (a closed loop): where it does more, they are the shorter. CPU time
# for a request is the steadier figure where wrk and the application are what is short.
set -euo pipefail

rounds=${ROUNDS:-5} seconds=${SECONDS_EACH:-3} connections=${CONNECTIONS:-64} sizes=${SIZES:-1 13 100}
variants=${VARIANTS:-overspill nginx}
cd "$(dirname "$0")/../.."

. benches/peers/common
needs "wrk, util-linux, nginx, curl" wrk taskset nginx curl
program=${PROGRAM:-}
if [ -z "$program" ]; then
    cargo build --quiet --release --bin overspill
    target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
    program=$target/release/overspill
fi
work=$(mktemp -d)
chmod 755 "$work"
pid= app=
finish() {
    for process in $pid $app; do kill "$process" 2>/dev/null || true; done
    for process in $pid $app; do wait "$process" 2>/dev/null || true; done
    rm -rf "$work"
}
trap finish EXIT

mkdir "$work/site" "$work/tmp"
for size in $sizes; do head -c "$((size * 1000))" /dev/urandom >"$work/site/$size.bin"; done
common="access_log off; keepalive_requests 100000000; keepalive_timeout 300s;
    client_body_temp_path $work/tmp/a; proxy_temp_path $work/tmp/b; fastcgi_temp_path $work/tmp/c;
    uwsgi_temp_path $work/tmp/d; scgi_temp_path $work/tmp/e;"
cat >"$work/app.conf" <<CONF
daemon off; master_process off; worker_processes 1; pid $work/app.pid; error_log $work/app.log;
events { worker_connections 1024; }
http { $common sendfile on; open_file_cache max=100; server { listen 127.0.0.1:18450 backlog=1024; root $work/site; } }
CONF
cat >"$work/nginx.conf" <<CONF
daemon off; master_process off; worker_processes 1; pid $work/nginx.pid; error_log $work/nginx.log;
events { worker_connections 1024; }
http {
    $common
    upstream app { server 127.0.0.1:18450; keepalive 64; keepalive_requests 100000000; }
    server {
        listen 127.0.0.1:18451;
        location / {
            proxy_pass http://app;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host \$host;
            proxy_set_header X-Forwarded-For \$proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto \$scheme;
            proxy_set_header X-Forwarded-Host \$host;
        }
    }
}
CONF
cat >"$work/overspill.toml" <<CONF
primary.listen = "127.0.0.1:18452"
primary.upstream = "http://127.0.0.1:18450"
primary.limits.requests = 1000000
admin.listen = "127.0.0.1:18459"
load.cpu.enabled = false
load.bandwidth.enabled = false
CONF

echo "$(nproc) cores, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1), Linux $(uname -r), $(nginx -v 2>&1), $(date -u +%F)"
echo "ROUNDS=$rounds SECONDS_EACH=$seconds CONNECTIONS=$connections $0"

taskset -c 1 nginx -c "$work/app.conf" 2>"$work/errors" &
app=$!

start() {
    local variant=$1 size=$2
    case $variant in
        overspill)
            taskset -c 0 "$program" serve --config "$work/overspill.toml" 2>"$work/errors" &
            url=http://127.0.0.1:18452/$size.bin ;;
        nginx)
            taskset -c 0 nginx -c "$work/nginx.conf" 2>"$work/errors" &
            url=http://127.0.0.1:18451/$size.bin ;;
    esac
    pid=$!
    for _ in $(seq 200); do
        if curl -sfo "$work/object" --max-time 5 "$url"; then return; fi
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.05
    done
    echo "upstream.sh: $variant did not start: $(cat "$work/errors")" >&2
    return 1
}

# Prints requests a second, microseconds of the server's CPU time for a request, and the 99th percentile of the time that
# a request takes, in milliseconds.
measure() {
    local variant=$1 size=$2 cpu
    start "$variant" "$size"
    cmp "$work/object" "$work/site/$size.bin"
    taskset -c 1 wrk -t1 -c"$connections" -d1s "$url" >/dev/null
    cpu=$(cpu_time "$pid")
    taskset -c 1 timeout $((seconds + 10)) wrk --latency -t1 -c"$connections" -d"${seconds}s" "$url" >"$work/wrk"
    cpu=$(($(cpu_time "$pid") - cpu))
    kill "$pid"
    wait "$pid" 2>/dev/null || true
    pid=
    if grep -q 'Socket errors\|Non-2xx' "$work/wrk"; then cat "$work/wrk" >&2; return 1; fi
    awk -v cpu="$cpu" '
        function ms(text) { return text ~ /us$/ ? text / 1000 : text ~ /ms$/ ? text + 0 : text * 1000 }
        $1 == "99%" {late = ms($2)} /requests in/ {count = $1} /^Requests\/sec/ {print $2, cpu / count / 1000, late}' "$work/wrk"
}

# The median over the rounds of overspill's figure (1: requests a second, 2: CPU time, 3: p99) through nginx's.
ratio() {
    paste "$work/$size.overspill" "$work/$size.nginx" | awk -v a="$1" '{print $a / $(a + 3)}' | median
}

for size in $sizes; do
    for _ in $(seq "$rounds"); do
        for variant in $variants; do measure "$variant" "$size" >>"$work/$size.$variant"; done
    done
    printf '\n%s KB\n%12s %12s %12s %12s\n' "$size" '' requests/s 'µs CPU each' 'p99 ms'
    for variant in $variants; do
        printf '%12s %12.0f %12.2f %12.2f\n' "$variant" "$(cut -d' ' -f1 "$work/$size.$variant" | median)" \
            "$(cut -d' ' -f2 "$work/$size.$variant" | median)" "$(cut -d' ' -f3 "$work/$size.$variant" | median)"
    done
    [ -f "$work/$size.overspill" ] && [ -f "$work/$size.nginx" ] || continue
    printf 'overspill/nginx, medians of the ratios of each round: requests %.2f, CPU %.2f, p99 %.2f\n' \
        "$(ratio 1)" "$(ratio 2)" "$(ratio 3)"
done
