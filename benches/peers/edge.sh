#!/usr/bin/env bash
# Requests a second of an object from an edge's store against Varnish and nginx's proxy_cache: one core for the
# server, wrk on another, each in turn, several rounds. The primary that all of them fill from is an nginx that is
# asked once for each object.
#
#   benches/peers/edge.sh
#
# ROUNDS=5 SECONDS_EACH=2 CONNECTIONS=32 SIZES="13 100" (kilobytes) VARIANTS="edge varnish nginx nopush": the last is
# nginx with `tcp_nopush`, as Debian configures it; on loopback it is now the better and now the worse of the two.
# PROGRAM: a release build of `overspill`, else it is built. Takes about ROUNDS × sizes × variants × (SECONDS_EACH + 2)
# seconds after building. CPU time is the steadier of the two figures where others use the cores, too, and where
# wrk is busier than the server.
set -euo pipefail

rounds=${ROUNDS:-5} seconds=${SECONDS_EACH:-2} connections=${CONNECTIONS:-32} sizes=${SIZES:-13 100}
variants=${VARIANTS:-edge varnish nginx nopush}
cd "$(dirname "$0")/../.."

. benches/peers/common
needs "wrk, util-linux, nginx, varnish, curl" wrk taskset nginx varnishd curl
program=${PROGRAM:-}
if [ -z "$program" ]; then
    cargo build --quiet --release --bin overspill
    target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
    program=$target/release/overspill
fi
work=$(mktemp -d)
chmod 755 "$work"
pid= primary=
finish() {
    for process in $pid $primary; do kill "$process" 2>/dev/null || true; done
    for process in $pid $primary; do wait "$process" 2>/dev/null || true; done
    rm -rf "$work"
}
trap finish EXIT

touch "$work/edge.toml"
mkdir "$work/site" "$work/cache" "$work/tmp" "$work/varnish"
for size in $sizes; do head -c "$((size * 1000))" /dev/urandom >"$work/site/$size.bin"; done
common="access_log off; sendfile on; keepalive_requests 1000000;
    client_body_temp_path $work/tmp/a; proxy_temp_path $work/tmp/b; fastcgi_temp_path $work/tmp/c;
    uwsgi_temp_path $work/tmp/d; scgi_temp_path $work/tmp/e;"
cat >"$work/primary.conf" <<CONF
daemon off; master_process off; worker_processes 1; pid $work/primary.pid; error_log $work/primary.log;
events { worker_connections 1024; }
http { $common server { listen 127.0.0.1:18440; root $work/site; add_header Cache-Control "max-age=86400"; } }
CONF
cat >"$work/nginx.conf" <<CONF
daemon off; master_process off; worker_processes 1; pid $work/nginx.pid; error_log $work/nginx.log;
events { worker_connections 1024; }
http {
    $common
    open_file_cache max=100;
    proxy_cache_path $work/cache keys_zone=site:10m max_size=1g;
    server {
        listen 127.0.0.1:18441;
        location / {
            proxy_pass http://127.0.0.1:18440; proxy_cache site; proxy_cache_lock on;
            add_header Access-Control-Allow-Origin *;
        }
    }
}
CONF
sed 's/sendfile on;/sendfile on; tcp_nopush on;/' "$work/nginx.conf" >"$work/nopush.conf"
cat >"$work/site.vcl" <<'VCL'
vcl 4.1;
backend default { .host = "127.0.0.1"; .port = "18440"; }
sub vcl_deliver { set resp.http.Access-Control-Allow-Origin = "*"; }
VCL

echo "$(nproc) cores, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1), Linux $(uname -r), $(nginx -v 2>&1), $(varnishd -V 2>&1 | head -1), $(date -u +%F)"
echo "ROUNDS=$rounds SECONDS_EACH=$seconds CONNECTIONS=$connections $0"

nginx -c "$work/primary.conf" 2>"$work/errors" &
primary=$!

start() {
    local variant=$1 size=$2
    case $variant in
        edge)
            OVERSPILL_CONFIG=$work/edge.toml OVERSPILL__LOAD__CPU__ENABLED=false OVERSPILL__ADMIN__LISTEN=127.0.0.1:18449 \
                OVERSPILL__LOAD__BANDWIDTH__ENABLED=false taskset -c 0 "$program" edge \
                --primary http://127.0.0.1:18440 --listen 127.0.0.1:18443 2>"$work/errors" &
            url=http://127.0.0.1:18443/$size.bin ;;
        varnish)
            taskset -c 0 varnishd -F -n "$work/varnish" -a 127.0.0.1:18442 -f "$work/site.vcl" -s malloc,256m \
                -p thread_pools=1 >"$work/errors" 2>&1 &
            url=http://127.0.0.1:18442/$size.bin ;;
        nginx | nopush)
            taskset -c 0 nginx -c "$work/$variant.conf" 2>"$work/errors" &
            url=http://127.0.0.1:18441/$size.bin ;;
    esac
    pid=$!
    for _ in $(seq 200); do
        if curl -sfo "$work/object" --max-time 5 "$url"; then return; fi
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.05
    done
    echo "edge.sh: $variant did not start: $(cat "$work/errors")" >&2
    return 1
}

# Nanoseconds on a core so far, of all threads of the server and of its children.
cpu_time() {
    local processes
    processes="$pid $(cat "/proc/$pid"/task/*/children)"
    for process in $processes; do cat "/proc/$process"/task/*/schedstat; done | awk '{sum += $1} END {printf "%d", sum}'
}

# Prints requests a second and microseconds of the server's CPU time for a request.
measure() {
    local variant=$1 size=$2 cpu
    start "$variant" "$size"
    # Each is seen to give out the object, to pages of every origin, and from its cache.
    curl -sf --max-time 5 -D "$work/head" -o "$work/object" "$url"
    cmp "$work/object" "$work/site/$size.bin"
    grep -qi '^access-control-allow-origin: \*' "$work/head"
    taskset -c 1 wrk -t1 -c"$connections" -d1s "$url" >/dev/null
    cpu=$(cpu_time)
    taskset -c 1 timeout $((seconds + 10)) wrk -t1 -c"$connections" -d"${seconds}s" "$url" >"$work/wrk"
    cpu=$(($(cpu_time) - cpu))
    kill "$pid"
    wait "$pid" 2>/dev/null || true
    pid=
    if grep -q 'Socket errors\|Non-2xx' "$work/wrk"; then cat "$work/wrk" >&2; return 1; fi
    awk -v cpu="$cpu" '/requests in/ {count = $1} /^Requests\/sec/ {print $2, cpu / count / 1000}' "$work/wrk"
}

# The median over the rounds of one variant's figure (1: requests a second, 2: CPU time) through another's.
ratio() {
    paste "$work/$size.$1" "$work/$size.$2" | awk -v a="$3" '{print $a / $(a + 2)}' | median
}

for size in $sizes; do
    for _ in $(seq "$rounds"); do
        for variant in $variants; do measure "$variant" "$size" >>"$work/$size.$variant"; done
    done
    printf '\n%s KB\n%12s %12s %12s\n' "$size" '' requests/s 'µs CPU each'
    for variant in $variants; do
        printf '%12s %12.0f %12.2f\n' "$variant" "$(cut -d' ' -f1 "$work/$size.$variant" | median)" \
            "$(cut -d' ' -f2 "$work/$size.$variant" | median)"
    done
    echo 'medians of the ratios of each round: of requests a second, and of CPU time the other way round'
    for pair in edge/varnish edge/nginx edge/nopush; do
        one=${pair%/*} other=${pair#*/}
        [ -f "$work/$size.$one" ] && [ -f "$work/$size.$other" ] || continue
        printf '%20s %8.2f %8.2f\n' "$pair" "$(ratio "$one" "$other" 1)" "$(ratio "$other" "$one" 2)"
    done
done
