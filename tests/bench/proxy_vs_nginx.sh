#!/bin/sh
# Measures `nitrotap proxy` beside nginx as a reverse proxy, on this machine, over loopback.
#
# Both stand in front of the same upstream (nginx with a tiny body) and keep their upstream connections; runs alternate,
# so that whatever else the machine does hits both alike. Only the ratio means anything: the load generator, the proxy
# and the upstream share the cores.
#
#   tests/bench/proxy_vs_nginx.sh            # 3 runs of 6 s at 8, 64 and 1000 connections: about 2 minutes
#   RUNS=5 SECONDS_EACH=10 CONNECTIONS="64" tests/bench/proxy_vs_nginx.sh
#
# Needs nginx, wrk, curl and a release build (cargo build --release -p nitrotap), or NITROTAP=/path/to/nitrotap.
# Exits 1 if a goal is missed: 0.8x nginx everywhere, at most 30 % less at the most connections than at 64, and fewer
# than 1 dial per 1,000 requests.
set -eu

runs=${RUNS:-3}
seconds=${SECONDS_EACH:-6}
connections=${CONNECTIONS:-8 64 1000}
base=${BASE_PORT:-18400}
root=$(cd "$(dirname "$0")/../.." && pwd)
nitrotap=${NITROTAP:-${CARGO_TARGET_DIR:-$root/target}/release/nitrotap}
workers=$(nproc)

[ "$seconds" -ge 4 ] || { echo "$0: SECONDS_EACH must be at least 4" >&2; exit 2; }
for tool in nginx wrk curl; do
    command -v "$tool" >/dev/null || { echo "$0: $tool is missing; on Debian: apt-get install nginx-light wrk curl" >&2; exit 2; }
done
[ -x "$nitrotap" ] || { echo "$0: no $nitrotap; run: cargo build --release -p nitrotap" >&2; exit 2; }

dir=$(mktemp -d)
pids=
finish() {
    for pid in $pids; do kill "$pid" 2>/dev/null || true; done
    for pid in $pids; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$dir"
}
trap finish EXIT
trap 'exit 130' INT TERM
ulimit -n "$(ulimit -H -n)" 2>/dev/null || true

# nginx NAME: starts nginx with $dir/NAME.conf, whose http block comes from standard input.
start_nginx() {
    mkdir -p "$dir/$1"
    {
        [ "$(id -u)" -ne 0 ] || echo "user root;"
        cat <<CONF
daemon off;
worker_processes 2;
worker_rlimit_nofile 16384;
pid $dir/$1/pid;
error_log $dir/$1/error.log;
events { worker_connections 8192; }
http {
    access_log off;
    client_body_temp_path $dir/$1/body;
    proxy_temp_path $dir/$1/proxy;
    fastcgi_temp_path $dir/$1/fastcgi;
    uwsgi_temp_path $dir/$1/uwsgi;
    scgi_temp_path $dir/$1/scgi;
    keepalive_requests 100000000;
    keepalive_timeout 75s;
CONF
        cat
        echo "}"
    } >"$dir/$1.conf"
    nginx -e "$dir/$1/error.log" -c "$dir/$1.conf" &
    pids="$! $pids"
}

upstream=$base nginx=$((base + 1)) ours=$((base + 2)) metrics=$((base + 3))
start_nginx upstream <<CONF
    server { listen 127.0.0.1:$upstream backlog=4096; location / { default_type text/plain; return 200 "hello\n"; } }
CONF
start_nginx reverse <<CONF
    upstream app { server 127.0.0.1:$upstream; keepalive 512; keepalive_requests 100000000; }
    server {
        listen 127.0.0.1:$nginx backlog=4096;
        location / { proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; }
    }
CONF
nginx_pid=${pids%% *}
"$nitrotap" proxy --listen "127.0.0.1:$ours" --upstream "http://127.0.0.1:$upstream" --workers "$workers" \
    --metrics "127.0.0.1:$metrics" 2>"$dir/nitrotap.log" &
pids="$! $pids"
ours_pid=$!

for port in $nginx $ours; do
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        [ "$(curl -s "http://127.0.0.1:$port/" || true)" != hello ] || continue 2
        sleep 0.3
    done
    echo "$0: nothing answers on port $port:" >&2
    cat "$dir"/*/error.log "$dir/nitrotap.log" >&2
    exit 2
done

# cpu PID: CPU time of a process and its children so far, in microseconds.
tick=$((1000000 / $(getconf CLK_TCK)))
cpu() {
    sum=0
    for pid in "$1" $(cat "/proc/$1/task/$1/children"); do
        # Fields 14 and 15 (proc(5)), counted behind the name, which may hold blanks.
        sum=$((sum + $(sed 's/.*) //' "/proc/$pid/stat" | awk '{ print $12 + $13 }')))
    done
    echo $((sum * tick))
}

# metric NAME: the sum of a counter of ours.
metric() {
    curl -s "http://127.0.0.1:$metrics/metrics" | awk -v name="$1" '$1 ~ "^" name "_total" { sum += $2 } END { print sum + 0 }'
}

# load PORT CONNECTIONS SECONDS: requests per second, responses that were no 200 or never came, and requests in all.
load() {
    wrk -t2 -c"$2" -d"$3"s --timeout 10s "http://127.0.0.1:$1/" |
        awk '/Requests\/sec/ { rate = $2 } /requests in/ { all = $1 } /Non-2xx/ { bad += $NF }
             /Socket errors/ { gsub(/[^0-9 ]/, ""); for (i = 1; i <= NF; i++) bad += $i } END { print int(rate), bad + 0, all }'
}

median() { sort -n "$1" | awk '{ v[NR] = $1 } END { print (NR % 2) ? v[(NR + 1) / 2] : int((v[NR / 2] + v[NR / 2 + 1]) / 2) }'; }

missed=0
at_64= last=
printf '%-12s %12s %12s %8s %16s %16s %16s %8s\n' connections "nginx req/s" "ours req/s" ratio "nginx CPU us" "ours CPU us" "dials/1000 req" errors
for c in $connections; do
    for who in nginx ours; do : >"$dir/$who.rates"; : >"$dir/$who.costs"; done
    dials=0 requests=0 errors=0
    for run in $(seq "$runs"); do
        for who in nginx ours; do
            if [ $who = nginx ]; then port=$nginx pid=$nginx_pid; else port=$ours pid=$ours_pid; fi
            before=$(cpu $pid)
            load $port "$c" "$seconds" >"$dir/result" &
            loader=$!
            pids="$loader $pids"
            if [ $who = ours ]; then
                # From the second second to shortly before the end: clients come and go at both ends of a run.
                sleep 1.5
                d=$(metric nitrotap_pool_dials) r=$(metric nitrotap_pool_assigned)
                sleep $((seconds - 3))
                dials=$((dials + $(metric nitrotap_pool_dials) - d)) requests=$((requests + $(metric nitrotap_pool_assigned) - r))
            fi
            wait $loader
            pids=${pids#* }
            read -r rate bad all <"$dir/result"
            echo "$rate" >>"$dir/$who.rates"
            echo $((($(cpu $pid) - before) * 10 / all)) >>"$dir/$who.costs"
            errors=$((errors + bad))
        done
    done
    n=$(median "$dir/nginx.rates") o=$(median "$dir/ours.rates")
    per_thousand=$(awk -v d="$dials" -v r="$requests" 'BEGIN { printf "%.4f", r ? d * 1000 / r : 0 }')
    ratio=$(awk -v o="$o" -v n="$n" 'BEGIN { printf "%.2f", n ? o / n : 0 }')
    cost() { awk -v tenths="$(median "$dir/$1.costs")" 'BEGIN { printf "%.1f", tenths / 10 }'; }
    printf '%-12s %12s %12s %8s %16s %16s %16s %8s\n' "$c" "$n" "$o" "$ratio" "$(cost nginx)" "$(cost ours)" "$per_thousand" "$errors"
    awk -v r="$ratio" 'BEGIN { exit !(r < 0.8) }' && missed=1
    awk -v p="$per_thousand" 'BEGIN { exit !(p >= 1) }' && missed=1
    [ "$errors" -eq 0 ] || missed=1
    [ "$c" -ne 64 ] || at_64=$o
    last=$o
done
if [ -n "$at_64" ]; then
    awk -v a="$at_64" -v b="$last" 'BEGIN { printf "from 64 connections to the most: %+.0f %%\n", (b / a - 1) * 100; exit !(b < 0.7 * a) }' && missed=1
fi
curl -s "http://127.0.0.1:$metrics/status"
exit $missed
