#!/bin/sh
# The main job on a fresh Linux box: an app in a pseudo-enclave is fetched from outside, through the gateway, the frames,
# the TAP device and the reverse proxy. Needs a Rust toolchain and nothing else.
set -eu
cd "$(dirname "$0")/.."

echo "1. Building nitrotap and a hello-world app"
cargo build --release -p nitrotap -p nitrotap-tests --bins
bin=${CARGO_TARGET_DIR:-target}/release

port=$((20000 + $$ % 20000))
answer=$(mktemp)
app=
trap '[ -z "$app" ] || kill "$app" 2>/dev/null; rm -f "$answer"' EXIT

echo "2. Starting the app in a pseudo-enclave; port $port outside leads to the reverse proxy inside"
"$bin/nitrotap" local --publish "$port:80" \
    --listen 0.0.0.0:80 --upstream http://127.0.0.1:8080 \
    -- "$bin/nitrotap-test-guest" http-server 127.0.0.1:8080 &
app=$!

echo "3. Fetching from outside"
tries=0
until "$bin/nitrotap-test-guest" http-get "http://127.0.0.1:$port/first-light" >"$answer" 2>/dev/null; do
    kill -0 "$app" 2>/dev/null || { echo "the pseudo-enclave ended; its message is above" >&2; exit 1; }
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] || { echo "no answer within 20 s" >&2; exit 1; }
    sleep 0.2
done
cat "$answer"

echo "4. Stopping it"
kill "$app"
wait "$app" || true
app=
echo "First light: that answer came out of the pseudo-enclave."
