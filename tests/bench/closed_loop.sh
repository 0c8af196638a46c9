#!/usr/bin/env bash
# Closed-loop requests per second, latency, and what each process spends per request, against the number of connections:
# what the simulator is fitted to and checked against.
#
#   tests/bench/closed_loop.sh [--smoke] [--out FILE]
#
# Paths, in turns in one run with one nginx, at MTU 1500:
#   direct        wrk, nginx on the loopback
#   proxy         wrk, nitrotap proxy, nginx on the loopback
#   nitrotap-nrp  wrk, gvproxy, stream, nitrotap, TAP, nginx in the pseudo-enclave (no reverse proxy)
#   nitrotap      the same, with nitrotap's reverse proxy in front of nginx
#   nitrotap-nrp-host, nitrotap-host
#                 the same two with `nitrotap host` in gvproxy's place
#
# ROUNDS (5) rounds of SECONDS_EACH (4) seconds per point; the medians are printed, and go to FILE as tab-separated values:
# path, connections, requests/s, p50 and p99 in us, then us of processor time per request for wrk, the gateway (gvproxy or
# `nitrotap host`), nitrotap in the enclave, and nginx. The figures hold for this machine only.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lab.sh"

rounds=${ROUNDS:-5}
each=${SECONDS_EACH:-4}
connections=(${CONNECTIONS:-1 2 4 8 16 32 64 128 256 500 1000})
paths=(${PATHS:-direct proxy nitrotap-nrp nitrotap nitrotap-nrp-host nitrotap-host})
out=/dev/null
placed=

main() {
    while (($#)); do
        case "$1" in
            --smoke) rounds=1 each=1 connections=(1 64) ;;
            --out) out=${2:?--out wants a file}; shift ;;
            *) lab_fail "usage: tests/bench/closed_loop.sh [--smoke] [--out FILE]" ;;
        esac
        shift
    done
    lab_start wrk nginx
    ulimit -n 65536 2>/dev/null || true
    declare -gA port
    for path in direct proxy nitrotap-nrp nitrotap nitrotap-nrp-host nitrotap-host; do port[$path]=$(lab_port); done

    configure outside "127.0.0.1:${port[direct]}"
    nginx -c "$scratch/outside/nginx.conf" -e "$scratch/outside/error.log" 2>"$scratch/outside/log" {lab_hold}>&- &
    local outside=$!
    "$nitrotap" proxy --listen "127.0.0.1:${port[proxy]}" --upstream "http://127.0.0.1:${port[direct]}" \
        >>"$scratch/proxy.log" 2>&1 {lab_hold}>&- &
    local proxy=$!
    place gvproxy
    # The app listens as long as the namespace lives; the loopback that shows it comes with the enclave.
    configure inside 8080
    lab_serve 8080 nginx -c "$scratch/inside/nginx.conf" -e "$scratch/inside/error.log"

    local steal_before round host n path
    steal_before=$(lab_steal)
    for ((round = 1; round <= rounds; round++)); do
        for host in gvproxy nitrotap; do
            place "$host"
            for n in "${connections[@]}"; do
                for path in "${paths[@]}"; do
                    case $host/$path in
                        gvproxy/direct) measure "$path" "$n" "" "" "$outside" ;;
                        gvproxy/proxy) measure "$path" "$n" "" "$proxy" "$outside" ;;
                        nitrotap/*-host | gvproxy/nitrotap | gvproxy/nitrotap-nrp)
                            measure "$path" "$n" "$gateway" "$enclave" "$lab_server"
                            ;;
                    esac
                done
            done
        done
        echo "round $round of $rounds done" >&2
    done
    table | tee "$out"
    lab_steal_since "$steal_before" | sed 's/^/# /' | tee -a "$out"
}

# place HOST has this gateway on the host, and the enclave with it.
place() {
    [[ $placed != "$1" ]] || return 0
    if [[ -n $placed ]]; then
        lab_stop "$enclave"
        lab_stop "$gateway"
    fi
    placed=$1
    lab_gateway "$1"
    lab_enclave --listen 0.0.0.0:8081 --upstream http://127.0.0.1:8080
    local suffix=
    if [[ $1 == nitrotap ]]; then suffix=-host; fi
    lab_expose "${port[nitrotap-nrp$suffix]}" 8080
    lab_expose "${port[nitrotap$suffix]}" 8081
}

# configure NAME LISTEN writes the configuration of an nginx with a tiny answer.
configure() {
    mkdir -p "$scratch/$1"
    cat >"$scratch/$1/nginx.conf" <<TEXT
daemon off; master_process off; user root; pid $scratch/$1/pid; error_log $scratch/$1/error.log;
worker_rlimit_nofile 65536;
events { worker_connections 8192; }
http {
    access_log off; keepalive_requests 1000000000; keepalive_timeout 600;
    client_body_temp_path $scratch/$1; proxy_temp_path $scratch/$1; fastcgi_temp_path $scratch/$1;
    uwsgi_temp_path $scratch/$1; scgi_temp_path $scratch/$1;
    server { listen $2 backlog=4096; location / { return 200 "hello\n"; } }
}
TEXT
}

# measure PATH CONNECTIONS GATEWAY NITROTAP NGINX appends a line of raw figures.
measure() {
    local path=$1 n=$2 before after spent
    local pids=("${@:3}") url="http://127.0.0.1:${port[$path]}/"
    before=$(ticks "${pids[@]}")
    TIMEFORMAT='%U %S'
    spent=$({ time wrk --threads "$((n < 2 ? 1 : 2))" --connections "$n" --duration "${each}s" --latency "$url" \
        >"$scratch/wrk.log" 2>&1; } 2>&1) || lab_fail "wrk failed: $(cat "$scratch/wrk.log")"
    after=$(ticks "${pids[@]}")
    if grep -E 'Non-2xx|Socket errors' "$scratch/wrk.log" >&2; then
        echo "in $path at $n connections" >&2
    fi
    awk -v path="$path" -v n="$n" -v before="$before" -v after="$after" -v spent="$spent" -v hz="$(getconf CLK_TCK)" '
        function us(t) { return t ~ /us$/ ? t + 0 : t ~ /ms$/ ? t * 1000 : t * 1000000 }
        $1 == "50%" { p50 = us($2) }
        $1 == "99%" { p99 = us($2) }
        / requests in / { requests = $1 }
        /Requests\/sec/ { rate = $2 }
        END {
            split(before, b); split(after, a); split(spent, s)
            printf "%s\t%d\t%.1f\t%.1f\t%.1f\t%.3f", path, n, rate, p50, p99, (s[1] + s[2]) * 1e6 / requests
            for (i = 1; i <= 3; i++) printf "\t%.3f", (a[i] - b[i]) / hz * 1e6 / requests
            print ""
        }' "$scratch/wrk.log" >>"$scratch/results"
}

# Processor ticks spent by each process so far; 0 for one that takes no part.
ticks() {
    local pid sum=()
    for pid in "$@"; do
        if [[ -n $pid ]]; then sum+=("$(awk '{ print $14 + $15 }' "/proc/$pid/stat")"); else sum+=(0); fi
    done
    echo "${sum[*]}"
}

table() {
    printf '# gvproxy %s, MTU 1500, %s processors, medians of %s x %s s\n' \
        "$(gvproxy -version 2>&1 | awk '{ print $NF }')" "$(nproc)" "$rounds" "$each"
    printf '# path\tconnections\trequests_per_s\tp50_us\tp99_us\twrk_us\tgateway_us\tnitrotap_us\tnginx_us\n'
    awk -F '\t' '
        { key = $1 "\t" $2; if (!(key in n)) keys[++count] = key; m = ++n[key]; for (i = 3; i <= NF; i++) v[key, i, m] = $i; fields = NF }
        function median(key, field,    i, j, m, x, s) {
            m = n[key]
            for (i = 1; i <= m; i++) {
                x = v[key, field, i] + 0
                for (j = i - 1; j > 0 && s[j] > x; j--) s[j + 1] = s[j]
                s[j + 1] = x
            }
            return m % 2 ? s[(m + 1) / 2] : (s[m / 2] + s[m / 2 + 1]) / 2
        }
        END {
            for (i = 1; i <= count; i++) {
                printf "%s", keys[i]
                for (f = 3; f <= fields; f++) printf "\t%.1f", median(keys[i], f)
                print ""
            }
        }' "$scratch/results"
}

main "$@"
