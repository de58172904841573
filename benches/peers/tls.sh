#!/usr/bin/env bash
# TLS 1.3 against nginx: requests a second of an object over kept connections, by HTTP/1.1 (wrk) and by HTTP/2 (h2load),
# and over a connection for each (wrk); and what a connection costs that the gate drops, of such a page: one core for the server, the client on another, each in turn, several rounds.
# The same key (ECDSA, P-256) and, as the first lines show, the same cipher for both.
#
#   benches/peers/tls.sh
#
# ROUNDS=5 SECONDS_EACH=2 CONNECTIONS=32 STREAMS=10 (of each HTTP/2 connection; there are CONNECTIONS/4)
# SIZES="13" (kilobytes) WAYS="h1 h2 new" VARIANTS="edge nginx": `edge` gives the object out of its memory, `folder` is
# `overspill serve` with the object in a folder.
# PROGRAM: a release build of `overspill`, else it is built. Takes about ROUNDS × sizes × ways × variants ×
# (SECONDS_EACH + 2) seconds after building. CPU time is the steadier of the two figures where others use the cores, too,
# and where the client is busier than the server.
set -euo pipefail

rounds=${ROUNDS:-5} seconds=${SECONDS_EACH:-2} connections=${CONNECTIONS:-32} streams=${STREAMS:-10} sizes=${SIZES:-13}
ways=${WAYS:-h1 h2 new} variants=${VARIANTS:-edge nginx}
cd "$(dirname "$0")/../.."

. benches/peers/common
needs "wrk, nghttp2-client, util-linux, nginx, curl, openssl" wrk h2load taskset nginx curl openssl
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

mkdir "$work/site" "$work/tmp"
for size in $sizes; do head -c "$((size * 1000))" /dev/urandom >"$work/site/$size.bin"; done
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -days 2 \
    -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null
cat >"$work/overspill.toml" <<CONF
load.cpu.enabled = false
load.bandwidth.enabled = false
admin.listen = "127.0.0.1:18459"
[primary]
listen = "127.0.0.1:18452"
site = "$work/site"
tls = { certificate = "$work/cert.pem", key = "$work/key.pem" }
limits.requests = 1000000
[edge]
listen = "127.0.0.1:18453"
primary = "http://127.0.0.1:18450"
tls = { certificate = "$work/cert.pem", key = "$work/key.pem" }
limits.requests = 1000000
CONF
common="access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; open_file_cache max=100;
    client_body_temp_path $work/tmp/a; proxy_temp_path $work/tmp/b; fastcgi_temp_path $work/tmp/c;
    uwsgi_temp_path $work/tmp/d; scgi_temp_path $work/tmp/e;"
cat >"$work/primary.conf" <<CONF
daemon off; master_process off; worker_processes 1; pid $work/primary.pid; error_log $work/primary.log;
events { worker_connections 1024; }
http { $common server { listen 127.0.0.1:18450; root $work/site; add_header Cache-Control "max-age=86400"; } }
CONF
cat >"$work/nginx.conf" <<CONF
daemon off; master_process off; worker_processes 1; pid $work/nginx.pid; error_log $work/nginx.log;
events { worker_connections 1024; }
http {
    $common
    server {
        listen 127.0.0.1:18451 ssl http2; root $work/site;
        ssl_protocols TLSv1.3; ssl_certificate $work/cert.pem; ssl_certificate_key $work/key.pem;
    }
}
CONF

echo "$(nproc) cores, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1), Linux $(uname -r), $(nginx -v 2>&1), $(openssl version), $(date -u +%F)"
echo "ROUNDS=$rounds SECONDS_EACH=$seconds CONNECTIONS=$connections STREAMS=$streams $0"

nginx -c "$work/primary.conf" 2>"$work/errors" &
primary=$!

start() {
    local variant=$1 size=$2 port
    case $variant in
        edge | folder)
            local command=edge
            port=18453
            if [ "$variant" = folder ]; then command=serve port=18452; fi
            taskset -c 0 "$program" "$command" --config "$work/overspill.toml" 2>"$work/errors" & ;;
        nginx)
            port=18451
            taskset -c 0 nginx -c "$work/nginx.conf" 2>"$work/errors" & ;;
    esac
    pid=$!
    url=https://127.0.0.1:$port/$size.bin
    for _ in $(seq 200); do
        if curl -sfko "$work/object" --max-time 5 "$url"; then return; fi
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.05
    done
    echo "tls.sh: $variant did not start: $(cat "$work/errors")" >&2
    return 1
}

stop() {
    kill "$pid"
    wait "$pid" 2>/dev/null || true
    pid=
}

# Prints requests a second and microseconds of the server's CPU time for a request.
measure() {
    local variant=$1 size=$2 way=$3 cpu
    local client
    start "$variant" "$size"
    cmp "$work/object" "$work/site/$size.bin"
    case $way in
        h1) client=(wrk -t1 -c"$connections" -d) ;;
        new) client=(wrk -t1 -c"$connections" -H "Connection: close" -d) ;;
        h2) client=(h2load -t1 -c"$((connections / 4))" -m"$streams" -D) ;;
    esac
    taskset -c 1 "${client[@]}" 1 "$url" >/dev/null
    cpu=$(cpu_time "$pid")
    taskset -c 1 timeout $((seconds + 10)) "${client[@]}" "$seconds" "$url" >"$work/client"
    cpu=$(($(cpu_time "$pid") - cpu))
    stop
    # (wrk counts the end of a connection without close_notify as an error of reading.)
    if grep -q 'Non-2xx' "$work/client" || grep -qE '[1-9][0-9]* (failed|errored|timeout)' "$work/client"; then
        cat "$work/client" >&2
        return 1
    fi
    awk -v cpu="$cpu" -v seconds="$seconds" '
        /requests in/ {count = $1}
        /^Requests\/sec/ {rate = $2}
        /^status codes:/ {count = $3; rate = count / seconds}
        END {print rate, cpu / count / 1000}' "$work/client"
}

# The median over the rounds of one variant's figure (1: requests a second, 2: CPU time) through another's.
ratio() {
    paste "$work/$size.$way.$1" "$work/$size.$way.$2" | awk -v a="$3" '{print $a / $(a + 2)}' | median
}

# Prints microseconds of the primary's CPU time for a connection that its gate drops; the count is its own.
measure_drop() {
    local cpu before admin=http://127.0.0.1:18459
    dropped() { curl -sf "$admin/api/status" | sed 's/.*"dropped":\([0-9]*\).*/\1/'; }
    start folder "${sizes%% *}"
    curl -sf -o "$work/override" -H 'Content-Type: application/json' -d '{"level": "drop", "for": "1h"}' "$admin/api/override"
    sleep 0.5
    before=$(dropped)
    cpu=$(cpu_time "$pid")
    # Without TLS the client is quicker, and the server does not see the difference. (wrk fails where nothing answers at all.)
    taskset -c 1 timeout $((seconds + 10)) wrk -t1 -c"$connections" -d"$seconds" "${url/https/http}" >"$work/client" 2>&1 || true
    cpu=$(($(cpu_time "$pid") - cpu))
    before=$(($(dropped) - before))
    stop
    if [ "$before" -lt 1000 ]; then echo "tls.sh: only $before dropped" >&2; return 1; fi
    awk -v cpu="$cpu" -v count="$before" 'BEGIN {print cpu / count / 1000}'
}

for variant in $variants; do
    start "$variant" "${sizes%% *}"
    address=${url#https://}
    openssl s_client -connect "${address%%/*}" -alpn h2 </dev/null 2>/dev/null | awk -v variant="$variant" '
        /^New, |Server Temp Key|Server public key|ALPN protocol|Peer signature type/ {gsub(/^ +/, ""); line = line "; " $0}
        END {print variant line}'
    stop
done

for size in $sizes; do
    for way in $ways; do
        for _ in $(seq "$rounds"); do
            for variant in $variants; do measure "$variant" "$size" "$way" >>"$work/$size.$way.$variant"; done
        done
        printf '\n%s KB, %s\n%12s %12s %12s\n' "$size" "$way" '' requests/s 'µs CPU each'
        for variant in $variants; do
            printf '%12s %12.0f %12.2f\n' "$variant" "$(cut -d' ' -f1 "$work/$size.$way.$variant" | median)" \
                "$(cut -d' ' -f2 "$work/$size.$way.$variant" | median)"
        done
        echo 'medians of the ratios of each round: of requests a second, and of CPU time the other way round'
        for one in edge folder; do
            [ -f "$work/$size.$way.$one" ] && [ -f "$work/$size.$way.nginx" ] || continue
            printf '%20s %8.2f %8.2f\n' "$one/nginx" "$(ratio "$one" nginx 1)" "$(ratio nginx "$one" 2)"
        done
    done
done

size=${sizes%% *}
[ -f "$work/$size.new.edge" ] || exit 0
for _ in $(seq "$rounds"); do measure_drop >>"$work/drop"; done
printf '\nat the gate\n%34s %12s\n' '' 'µs CPU each'
printf '%34s %12.2f\n' 'a connection that is dropped' "$(median <"$work/drop")"
printf '%34s %12.2f\n' 'of a page on a new one, median' \
    "$(paste "$work/drop" "$work/$size.new.edge" | awk '{print $1 / $3}' | median)"
