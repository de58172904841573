#!/usr/bin/env bash
# Requests a second of a folder's files against nginx: one core for the server, wrk on another, each in turn, several
# rounds, with keep-alive.
#
#   benches/peers/folder.sh
#
# ROUNDS=5 SECONDS_EACH=2 CONNECTIONS=32 CASES="13 100 750 many known gzip": files of so many kilobytes; 10,000 pages of
# 1 to 4 KB in random order; a page of 13 KB of which the client has the ETag (304); a page of 40 KB for a client that
# accepts gzip (nginx has it compressed beside the page, Overspill compresses it once by itself).
# VALID=60s is nginx's `open_file_cache_valid`, its default: for so long it does not see that a file changed, where
# Overspill looks every second; with VALID=1s it promises the same. PROGRAM: a release build of `overspill`, else it is
# built. Takes about ROUNDS × cases × 2 × (SECONDS_EACH + 2) seconds after building.
set -euo pipefail

rounds=${ROUNDS:-5} seconds=${SECONDS_EACH:-2} connections=${CONNECTIONS:-32} cases=${CASES:-13 100 750 many known gzip}
valid=${VALID:-60s}
cd "$(dirname "$0")/../.."

. benches/peers/common
needs "wrk, util-linux, nginx, curl" wrk taskset nginx curl gzip
program=${PROGRAM:-}
if [ -z "$program" ]; then
    cargo build --quiet --release --bin overspill
    target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
    program=$target/release/overspill
fi
work=$(mktemp -d)
chmod 755 "$work"
pid=
finish() {
    if [ -n "$pid" ]; then
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap finish EXIT

site=$work/site
mkdir "$site" "$work/packed" "$work/tmp"
for size in 13 100 750; do head -c "$((size * 1000))" /dev/urandom >"$site/$size.bin"; done
# Text that compresses as pages do: words, in no order, the same in every run.
words() {
    awk -v most="$1" 'BEGIN {
        srand(1)
        for (word = 0; word < 500; word++) {
            letters = ""
            for (left = 2 + int(rand() * 8); left > 0; left--) letters = letters sprintf("%c", 97 + int(rand() * 26))
            words[word] = letters
        }
        while (length(text) < most) text = text words[int(rand() * 500)] (rand() < 0.1 ? "\n" : " ")
        printf "%s", substr(text, 1, most)
    }'
}
words 13000 >"$site/known.html"
words 40000 >"$site/page.html"
gzip -9 <"$site/page.html" >"$work/page.html.gz"
for folder in $(seq -w 0 99); do
    mkdir -p "$site/many/$folder"
    for page in $(seq -w 0 99); do
        head -c "$((1000 + 10#$folder * 30))" "$site/page.html" >"$site/many/$folder/$page.html"
    done
done
# Long ago, as the files of a site are.
find "$site" -type f -exec touch -d '2026-01-01' {} +
# Only nginx has the page compressed beside it.
cp -al "$site/." "$work/packed"
cp "$work/page.html.gz" "$work/packed/page.html.gz"
cat >"$work/many.lua" <<'LUA'
math.randomseed(os.time())
request = function()
    local number = math.random(0, 9999)
    return wrk.format(nil, string.format("/many/%02d/%02d.html", number / 100, number % 100))
end
LUA
cat >"$work/nginx.conf" <<CONF
daemon off; master_process off; worker_processes 1; pid $work/nginx.pid; error_log $work/nginx.log;
events { worker_connections 1024; }
http {
    access_log off; sendfile on; keepalive_requests 1000000;
    types { text/html html; application/octet-stream bin; }
    open_file_cache max=20000; open_file_cache_valid $valid;
    gzip_static on; gzip_vary on;
    client_body_temp_path $work/tmp/a; proxy_temp_path $work/tmp/b; fastcgi_temp_path $work/tmp/c;
    uwsgi_temp_path $work/tmp/d; scgi_temp_path $work/tmp/e;
    server { listen 127.0.0.1:18541; root $work/packed; }
}
CONF
touch "$work/overspill.toml"

echo "$(nproc) cores, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1), Linux $(uname -r), $(nginx -v 2>&1), $(date -u +%F)"
echo "ROUNDS=$rounds SECONDS_EACH=$seconds CONNECTIONS=$connections VALID=$valid $0"

start() {
    case $1 in
        overspill)
            url=http://127.0.0.1:18543
            OVERSPILL_CONFIG=$work/overspill.toml OVERSPILL__LOAD__CPU__ENABLED=false OVERSPILL__ADMIN__LISTEN=127.0.0.1:18549 \
                OVERSPILL__LOAD__BANDWIDTH__ENABLED=false OVERSPILL__PRIMARY__LIMITS__REQUESTS=1000000 taskset -c 0 "$program" serve \
                --site "$site" --listen 127.0.0.1:18543 2>"$work/errors" & ;;
        nginx)
            url=http://127.0.0.1:18541
            taskset -c 0 nginx -c "$work/nginx.conf" 2>"$work/errors" & ;;
    esac
    pid=$!
    for _ in $(seq 200); do
        if curl -sfo "$work/object" --max-time 5 "$url/13.bin"; then return; fi
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.05
    done
    echo "folder.sh: $1 did not start: $(cat "$work/errors")" >&2
    return 1
}

# Prints requests a second and microseconds of the server's CPU time for a request.
measure() {
    local variant=$1 case=$2 cpu tag status path file
    local wrk=(taskset -c 1 timeout $((seconds + 20)) wrk -t1 "-c$connections") headers=() arguments=()
    start "$variant"
    path=/$case.bin file=$site/$case.bin status=200
    case $case in
        many) path=/many/42/17.html file=$site$path arguments=(-s "$work/many.lua") ;;
        known)
            path=/known.html file=/dev/null status=304
            tag=$(curl -sfI "$url$path" | tr -d '\r' | sed -n 's/^etag: //Ip')
            headers=(-H "If-None-Match: $tag") ;;
        gzip) path=/page.html file=$site/page.html headers=(-H "Accept-Encoding: gzip") ;;
    esac
    # Warm, and seen to give what it should.
    "${wrk[@]}" -d2s "${headers[@]}" "${arguments[@]}" "$url$path" >/dev/null
    : >"$work/object"
    seen=$(curl -s --max-time 5 "${headers[@]}" -D "$work/head" -o "$work/object" -w '%{http_code}' "$url$path")
    [ "$seen" = "$status" ]
    if [ "$case" = gzip ]; then
        grep -qi '^content-encoding: gzip' "$work/head"
        gzip -dc <"$work/object" | cmp - "$file"
    else
        cmp "$work/object" "$file"
    fi
    cpu=$(cpu_time "$pid")
    "${wrk[@]}" -d"${seconds}s" "${headers[@]}" "${arguments[@]}" "$url$path" >"$work/wrk"
    cpu=$(($(cpu_time "$pid") - cpu))
    kill "$pid"
    wait "$pid" 2>/dev/null || true
    pid=
    # wrk counts a 304 as another answer than a good one.
    if grep -q 'Socket errors' "$work/wrk" || { [ "$case" != known ] && grep -q 'Non-2xx' "$work/wrk"; }; then
        cat "$work/wrk" >&2
        return 1
    fi
    awk -v cpu="$cpu" '/requests in/ {count = $1} /^Requests\/sec/ {print $2, cpu / count / 1000}' "$work/wrk"
}

# The median over the rounds of one variant's figure (1: requests a second, 2: CPU time) through another's.
ratio() {
    paste "$work/$case.$1" "$work/$case.$2" | awk -v a="$3" '{print $a / $(a + 2)}' | median
}

printf '\n%8s %12s %12s %8s %14s %14s %8s\n' '' 'overspill/s' 'nginx/s' ratio 'overspill µs' 'nginx µs' ratio
for case in $cases; do
    for _ in $(seq "$rounds"); do
        for variant in overspill nginx; do measure "$variant" "$case" >>"$work/$case.$variant"; done
    done
    printf '%8s %12.0f %12.0f %8.2f %14.2f %14.2f %8.2f\n' "$case" \
        "$(cut -d' ' -f1 "$work/$case.overspill" | median)" "$(cut -d' ' -f1 "$work/$case.nginx" | median)" \
        "$(ratio overspill nginx 1)" \
        "$(cut -d' ' -f2 "$work/$case.overspill" | median)" "$(cut -d' ' -f2 "$work/$case.nginx" | median)" \
        "$(ratio nginx overspill 2)"
done
echo 'ratios: medians of each round, of requests a second, and of CPU time the other way round'
