#!/usr/bin/env bash
# Requests a second of a page with its links moved against the same page not rewritten (with the layer at `normal`,
# and without it), and against nginx with sub_filter: one core for the server, wrk on another, each in turn, several
# rounds.
#
#   benches/peers/rewrite.sh
#
# ROUNDS=5 SECONDS_EACH=2 CONNECTIONS=32 SIZES="13 100 750" (kilobytes) VARIANTS="bare normal known copied first
# nginx sub_filter"; see rewrite.rs for ours. SERVER: a release build of the example `rewrite`, else it is built.
# Takes about ROUNDS × sizes × variants × (SECONDS_EACH + 1.5) seconds after building. CPU time is the steadier of
# the two figures where others use the cores, too, and where wrk is busier than the server.
set -euo pipefail

rounds=${ROUNDS:-5} seconds=${SECONDS_EACH:-2} connections=${CONNECTIONS:-32} sizes=${SIZES:-13 100 750}
variants=${VARIANTS:-bare normal known copied first nginx sub_filter}
cd "$(dirname "$0")/../.."

. benches/peers/common
needs "wrk, util-linux, nginx, curl" wrk taskset nginx curl
server=${SERVER:-}
[ -n "$server" ] || server=$(built_example rewrite)
work=$(mktemp -d)
chmod 755 "$work"
pid=
finish() {
    if [ -n "$pid" ]; then kill "$pid" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap finish EXIT

mkdir "$work/plain" "$work/tmp"
for size in $sizes; do "$server" print "$size" >"$work/plain/$size.html"; done
cat >"$work/nginx.conf" <<CONF
daemon off; master_process off; worker_processes 1; pid $work/pid; error_log $work/nginx.log;
events { worker_connections 1024; }
http {
    access_log off; default_type text/html; sendfile on; tcp_nodelay on; keepalive_requests 1000000;
    open_file_cache max=100;
    client_body_temp_path $work/tmp/a; proxy_temp_path $work/tmp/b; fastcgi_temp_path $work/tmp/c;
    uwsgi_temp_path $work/tmp/d; scgi_temp_path $work/tmp/e;
    server { listen 127.0.0.1:18431; root $work/plain; }
    server {
        listen 127.0.0.1:18432; root $work/plain;
        sub_filter_once off;
        sub_filter 'src="/' 'src="https://eu.offload.example/';
        sub_filter 'href="/static/' 'href="https://eu.offload.example/static/';
    }
}
CONF

echo "$(nproc) cores, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1), Linux $(uname -r), $(nginx -v 2>&1), $(date -u +%F)"
echo "ROUNDS=$rounds SECONDS_EACH=$seconds CONNECTIONS=$connections $0"

# What a browser says when somebody follows a link.
asks=(
    -H 'Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8'
    -H 'Sec-Fetch-Dest: document' -H 'Sec-Fetch-Mode: navigate' -H 'Sec-Fetch-Site: none'
    -H 'User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0'
    -H 'Accept-Language: en-US,en;q=0.5'
)

start() {
    local variant=$1 size=$2
    # The address of the server before is none of this one's.
    rm -f "$work/server"
    case $variant in
        nginx) taskset -c 0 nginx -c "$work/nginx.conf" 2>"$work/errors" & url=http://127.0.0.1:18431/$size.html ;;
        sub_filter) taskset -c 0 nginx -c "$work/nginx.conf" 2>"$work/errors" & url=http://127.0.0.1:18432/$size.html ;;
        *) taskset -c 0 "$server" "$variant" "$size" >"$work/server" 2>"$work/errors" & url= ;;
    esac
    pid=$!
    for _ in $(seq 100); do
        if [ -z "$url" ] && [ -s "$work/server" ]; then url=http://$(head -1 "$work/server")/; fi
        if [ -n "$url" ] && curl -sfo "$work/page" --max-time 5 "$url"; then return; fi
        sleep 0.05
    done
    echo "rewrite.sh: $variant did not start: $(cat "$work/errors")" >&2
    return 1
}

# How often a pattern is found; none is no failure.
count() { (grep -oE "$1" "$2" || true) | wc -l; }

# Prints requests a second and microseconds of the server's CPU time for a request.
measure() {
    local variant=$1 size=$2 moved cpu
    start "$variant" "$size"
    # Each is seen to do what it is measured for.
    curl -sf --max-time 5 "$url" >"$work/page"
    moved=$(count 'https://eu\.offload\.example/' "$work/page")
    case $variant in
        bare | normal | nginx) [ "$moved" = 0 ] ;;
        *) [ "$moved" = "$(count '(src="/|href="/static/)' "$work/plain/$size.html")" ] ;;
    esac || { echo "rewrite.sh: $variant moved $moved links" >&2; return 1; }
    taskset -c 1 wrk -t1 -c"$connections" -d1s "${asks[@]}" "$url" >/dev/null
    cpu=$(cpu_time "$pid")
    taskset -c 1 timeout $((seconds + 10)) wrk -t1 -c"$connections" -d"${seconds}s" --timeout 10s "${asks[@]}" "$url" >"$work/wrk"
    cpu=$(($(cpu_time "$pid") - cpu))
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
    for pair in known/normal known/bare copied/bare known/sub_filter first/sub_filter; do
        one=${pair%/*} other=${pair#*/}
        [ -f "$work/$size.$one" ] && [ -f "$work/$size.$other" ] || continue
        printf '%20s %8.2f %8.2f\n' "$pair" "$(ratio "$one" "$other" 1)" "$(ratio "$other" "$one" 2)"
    done
done
