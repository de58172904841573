#!/usr/bin/env bash
# What idle keep-alive connections cost: the memory of a server with many of them, each after one request, over HTTP/1.1,
# against nginx's. And how long it is from the start of a server to the first byte of its first answer.
#
#   benches/peers/idle.sh
#
# COUNT=10000 connections, STARTS=20, VARIANTS="overspill nginx", SITE=a folder with 13.bin. PROGRAM: a release build of
# `overspill`, else it is built. Takes about half a minute after building. Memory is the resident set of the process
# (of all of nginx's), less what it had before.
set -euo pipefail

count=${COUNT:-10000} starts=${STARTS:-20} variants=${VARIANTS:-overspill nginx}
cd "$(dirname "$0")/../.."

. benches/peers/common
needs "nginx, python3" nginx python3
program=${PROGRAM:-}
if [ -z "$program" ]; then
    cargo build --quiet --release --bin overspill
    target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
    program=$target/release/overspill
fi
# The server wants two files for each connection, and some. Where it may not have them there are fewer connections.
ulimit -n "$((count * 2 + 1000))" 2>/dev/null || ulimit -n "$(ulimit -Hn)"
most=$((($(ulimit -n) - 500) / 2))
((count <= most)) || count=$most
work=$(mktemp -d)
chmod 755 "$work"
trap 'rm -rf "$work"' EXIT
mkdir "$work/site" "$work/tmp"
head -c 13000 /dev/urandom >"$work/site/13.bin"
cat >"$work/overspill.toml" <<CONF
primary = { listen = "127.0.0.1:18470", site = "$work/site", limits = { connections = $((count + 100)), connections_per_address = $((count + 100)), idle = "10m" } }
admin.listen = "127.0.0.1:18471"
load.bandwidth.enabled = false
load.cpu.enabled = false
CONF
cat >"$work/nginx.conf" <<CONF
daemon off; master_process off; worker_processes 1; pid $work/nginx.pid; error_log $work/nginx.log;
events { worker_connections $((count * 2 + 100)); }
http {
    access_log off; sendfile on; open_file_cache max=100; keepalive_timeout 600s; keepalive_requests 1000000;
    client_body_temp_path $work/tmp/a; proxy_temp_path $work/tmp/b; fastcgi_temp_path $work/tmp/c;
    uwsgi_temp_path $work/tmp/d; scgi_temp_path $work/tmp/e;
    server { listen 127.0.0.1:18470; root $work/site; }
}
CONF

echo "$(nproc) cores, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1), Linux $(uname -r), $(nginx -v 2>&1), $(date -u +%F)"
echo "COUNT=$count STARTS=$starts $0"

PROGRAM=$program WORK=$work COUNT=$count STARTS=$starts python3 - $variants <<'PYTHON'
import os, socket, statistics, subprocess, sys, time

work, count, starts = os.environ["WORK"], int(os.environ["COUNT"]), int(os.environ["STARTS"])
socket.setdefaulttimeout(10)
address = ("127.0.0.1", 18470)
ask = b"GET /13.bin HTTP/1.1\r\nHost: localhost\r\n\r\n"
commands = {
    "overspill": [os.environ["PROGRAM"], "serve", "--config", f"{work}/overspill.toml"],
    "nginx": ["nginx", "-c", f"{work}/nginx.conf"],
}
quiet = {name: value for name, value in os.environ.items() if not name.startswith("OVERSPILL")}


def start(variant):
    return subprocess.Popen(
        commands[variant], env=quiet | {"RUST_LOG": "warn"}, stderr=open(f"{work}/errors", "w")
    )


def answer(stream):
    """Reads one answer to its end."""
    read = b""
    while len(read.partition(b"\r\n\r\n")[2]) < 13000:
        part = stream.recv(65536)
        assert part, "the connection ended"
        read += part


def ready():
    """Asks until there is a first byte."""
    while True:
        try:
            with socket.create_connection(address) as stream:
                stream.sendall(ask)
                if stream.recv(1):
                    return
        except ConnectionError:
            pass
        time.sleep(0.0005)


def resident(process):
    with open(f"/proc/{process.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))


def stop(process):
    process.terminate()
    process.wait()


def measure(variant):
    times = []
    for _ in range(starts):
        begun = time.monotonic()
        process = start(variant)
        ready()
        times.append((time.monotonic() - begun) * 1000)
        process.kill()
        process.wait()
    process = start(variant)
    try:
        ready()
        return remember(variant, process, times)
    finally:
        stop(process)


def remember(variant, process, times):
    before = resident(process)
    streams = []
    for _ in range(count):
        stream = socket.create_connection(address)
        stream.sendall(ask)
        answer(stream)
        streams.append(stream)
    time.sleep(3)
    after = resident(process)
    # Each is still there.
    for stream in streams[:: max(1, count // 100)]:
        stream.sendall(ask)
        answer(stream)
    print(
        f"{variant}: {before} KiB before, {after} KiB with {count} connections, "
        f"{(after - before) / count:.2f} KiB each; start to first byte: "
        f"median {statistics.median(times):.1f} ms, most {max(times):.1f} ms of {starts}"
    )
    for stream in streams:
        stream.close()


for variant in sys.argv[1:]:
    measure(variant)
PYTHON
