#!/usr/bin/env bash
# `nitrotap proxy` beside nginx as a reverse proxy, over loopback: the same upstream (nginx with a tiny body) behind both,
# both keeping their upstream connections, their runs alternating.
#
#   tests/bench/proxy_vs_nginx.sh [--smoke]
#
# ROUNDS (3) rounds of SECONDS_EACH (6) seconds at each of CONNECTIONS ("8 64 1000") client connections; medians and their
# ratio are printed. Load generator, proxy and upstream share the cores, so expect the ratios, not the absolute numbers, to
# hold elsewhere. CPU time per request (user and system, the proxy's alone) is what other load on the machine disturbs least.
#
# Exits 1 if a goal is missed: 0.8 times nginx everywhere, at most 30 % less at the most connections than at 64, less than 1
# dial per 1,000 requests in steady state, no error. --smoke shows that it runs: one short round, no goals but no errors.
# Needs nginx, wrk and curl (sh tests/peers.sh tools), and builds the release binary unless NITROTAP_BIN names one.
set -euo pipefail

rounds=${ROUNDS:-3}
each=${SECONDS_EACH:-6}
read -ra connections <<<"${CONNECTIONS:-8 64 1000}"
smoke=
# shellcheck source=tests/proxies.sh
source "$(dirname "${BASH_SOURCE[0]}")/../proxies.sh"

main() {
    case "${1:-}" in
        "") ;;
        --smoke) smoke=yes rounds=1 each=4 connections=(64) ;;
        *) fail "usage: tests/bench/proxy_vs_nginx.sh [--smoke]" ;;
    esac
    ((each >= 4)) || fail "SECONDS_EACH must be at least 4: the dials are counted without the run's first and last seconds"
    proxies_need
    start
    missed=
    printf '%11s %12s %12s %6s %13s %13s %12s %7s\n' \
        connections 'nginx req/s' 'ours req/s' ratio 'nginx CPU us' 'ours CPU us' 'dials/1000' errors
    local count
    for count in "${connections[@]}"; do
        measure "$count"
    done
    fall
    curl -s "http://127.0.0.1:$metrics/status"
    [[ -n $smoke || -z $missed ]] || { echo "a goal was missed"; exit 1; }
}

# Starts the upstream and both proxies, and waits until they answer.
start() {
    proxies_begin
    start_nginx app <<CONF
        server {
            listen 127.0.0.1:$app backlog=4096;
            location / { default_type text/plain; return 200 "hello\n"; }
        }
CONF
    proxies_start / "server 127.0.0.1:$app; keepalive 512; keepalive_requests 100000000;"
}

# Alternates both proxies at a number of client connections and prints a line.
measure() {
    local count=$1 round who dials=0 requests=0 errors=0 before dials_before requests_before loader rate bad all
    rm -f "$scratch"/{nginx,ours}.{rate,cost}
    for ((round = 1; round <= rounds; round++)); do
        for who in $(proxies_in_turn "$round"); do
            before=$(cpu "${pid[$who]}")
            load "${port_of[$who]}" "$count" >"$scratch/result" &
            loader=$!
            if [[ $who == ours ]]; then
                # Clients come at the start of a run, and leave in the middle of a request at its end.
                sleep 1.5
                dials_before=$(metric nitrotap_pool_dials) requests_before=$(metric nitrotap_pool_assigned)
                sleep $((each - 3))
                dials=$((dials + $(metric nitrotap_pool_dials) - dials_before))
                requests=$((requests + $(metric nitrotap_pool_assigned) - requests_before))
            fi
            wait "$loader"
            read -r rate bad all <"$scratch/result"
            ((all > 0)) || fail "no request came through $who: $(cat "$scratch"/*.log)"
            echo "$rate" >>"$scratch/$who.rate"
            echo $((($(cpu "${pid[$who]}") - before) * 10 / all)) >>"$scratch/$who.cost"
            errors=$((errors + bad))
        done
    done
    local theirs mine ratio rarity
    theirs=$(rate nginx) mine=$(rate ours)
    ratio=$(quotient "$mine" "$theirs" 2) rarity=$(quotient $((dials * 1000)) "$requests" 3)
    printf '%11s %12s %12s %6s %13s %13s %12s %7s\n' "$count" "$theirs" "$mine" "$ratio" \
        "$(quotient "$(median "$scratch/nginx.cost")" 10 1)" "$(quotient "$(median "$scratch/ours.cost")" 10 1)" "$rarity" "$errors"
    awk -v ratio="$ratio" -v rarity="$rarity" 'BEGIN { exit !(ratio >= 0.8 && rarity < 1) }' || missed=yes
    ((errors == 0)) || { missed=yes; [[ -z $smoke ]] || fail "$errors requests failed"; }
    rate_at[count]=$mine
}

declare -a rate_at

# How much is lost from 64 connections to the most.
fall() {
    local most=${connections[-1]}
    [[ -n ${rate_at[64]:-} && $most != 64 ]] || return 0
    echo "from 64 to $most connections: $(quotient $(((rate_at[most] - rate_at[64]) * 100)) "${rate_at[64]}" 0) %"
    ((rate_at[most] * 10 >= rate_at[64] * 7)) || missed=yes
}

# Requests per second, failed requests, requests in all, of one run.
load() {
    wrk -t2 -c"$2" -d"$each"s --timeout 10s "http://127.0.0.1:$1/" | awk '
        /Requests\/sec/ { rate = $2 }
        /requests in/ { all = $1 }
        /Non-2xx/ { bad += $NF }
        /Socket errors/ { gsub(/[^0-9 ]/, ""); for (i = 1; i <= NF; i++) bad += $i }
        END { print int(rate), bad + 0, all + 0 }'
}

# CPU time of a process and its children so far, in microseconds: fields 14 and 15 of proc(5), counted behind the name.
cpu() {
    local process ticks=0
    for process in "$1" $(<"/proc/$1/task/$1/children"); do
        ticks=$((ticks + $(sed 's/.*) //' "/proc/$process/stat" | awk '{ print $12 + $13 }')))
    done
    echo $((ticks * 1000000 / $(getconf CLK_TCK)))
}

# The sum of one of our counters. Published values lag by a quarter of a second at most.
metric() {
    curl -s "http://127.0.0.1:$metrics/metrics" | awk -v name="$1" '$1 ~ "^" name "_total" { n += $2 } END { print n + 0 }'
}

# The median rate of a proxy, whole.
rate() {
    printf '%.0f' "$(median "$scratch/$1.rate")"
}

quotient() {
    awk -v a="$1" -v b="$2" -v digits="$3" 'BEGIN { printf "%.*f", digits, b ? a / b : 0 }'
}

main "$@"
