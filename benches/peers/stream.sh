#!/usr/bin/env bash
# How much memory it takes to pass on a very long answer, and a very long upload: the application makes and takes bytes as
# fast as it can, and curl takes and makes them.
#
#   benches/peers/stream.sh
#
# GIGABYTES=10. PROGRAM: a release build of `overspill`, else it is built. Prints the largest memory of the program: after
# its start and one small request, during the answer, and during the upload. Its own memory (RssAnon, looked at ten times a
# second) is what it takes from others; resident memory (VmHWM) has the pages of its file in it as well, which the system has
# once for all who run it and lets go of as it likes.
set -euo pipefail

gigabytes=${GIGABYTES:-10}
cd "$(dirname "$0")/../.."

. benches/peers/common
needs "curl, nodejs" curl node
program=${PROGRAM:-}
if [ -z "$program" ]; then
    cargo build --quiet --release --bin overspill
    target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
    program=$target/release/overspill
fi
work=$(mktemp -d)
pid= app= looking=
finish() {
    for process in $looking $pid $app; do kill "$process" 2>/dev/null || true; done
    for process in $looking $pid $app; do wait "$process" 2>/dev/null || true; done
    rm -rf "$work"
}
trap finish EXIT

cat >"$work/app.js" <<'JS'
const http = require('http');
const part = Buffer.alloc(1 << 18, 'x');
http.createServer((request, response) => {
  if (request.method === 'POST' || request.method === 'PUT') {
    let taken = 0;
    request.on('data', (data) => { taken += data.length; });
    request.on('end', () => response.end(`${taken}\n`));
    return;
  }
  let left = Number(request.url.slice(1));
  response.setHeader('Content-Length', left);
  const more = () => {
    while (left > 0) {
      const next = left < part.length ? part.subarray(0, left) : part;
      left -= next.length;
      if (!response.write(next)) return response.once('drain', more);
    }
    response.end();
  };
  more();
}).listen(18460, '127.0.0.1');
JS
cat >"$work/overspill.toml" <<CONF
primary.listen = "127.0.0.1:18462"
primary.upstream = "http://127.0.0.1:18460"
primary.limits.body_size = "1000GB"
admin.listen = "127.0.0.1:18469"
CONF

own() {
    awk '/^RssAnon/ {print $2}' "/proc/$pid/status"
}
memory() {
    local most
    most=$({ own; cat "$work/own"; } | sort -n | tail -1)
    : >"$work/own"
    awk -v own="$most" '/^VmHWM/ {printf "%.1f MB its own, %.1f MB resident", own * 1024 / 1e6, $2 * 1024 / 1e6}' "/proc/$pid/status"
}

node "$work/app.js" &
app=$!
"$program" serve --config "$work/overspill.toml" 2>"$work/errors" &
pid=$!
url=http://127.0.0.1:18462
for _ in $(seq 200); do
    if curl -sfo /dev/null --max-time 5 "$url/1"; then break; fi
    sleep 0.05
done

: >"$work/own"
while sleep 0.1; do own >>"$work/own"; done 2>/dev/null &
looking=$!

echo "$(nproc) cores, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1), Linux $(uname -r), $(date -u +%F)"
echo "GIGABYTES=$gigabytes $0"
echo "at the start: $(memory)"
bytes=$((gigabytes * 1000000000))
came=$(curl -sS "$url/$bytes" | wc -c)
echo "an answer of $came bytes: $(memory)"
went=$(head -c "$bytes" /dev/zero | curl -sS -T - "$url/")
echo "an upload of $went bytes: $(memory)"
[ "$came" = "$bytes" ] && [ "$went" = "$bytes" ]
