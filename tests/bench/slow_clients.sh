#!/usr/bin/env bash
# `nitrotap proxy` beside nginx while slowhttptest holds connections open: what 20 honest clients get meanwhile.
#
#   tests/bench/slow_clients.sh [--smoke]
#
# Four runs through each: quiet, slow heads (-H), slow bodies (-B), slow reading of a 256 KiB response (-X), with ATTACKERS
# (300) slow connections. Both proxies may open UPSTREAM (64) connections to the same app (nginx), have the same patience
# (60 s), and take turns; ROUNDS (3) rounds of SECONDS_EACH (8) seconds; medians are printed. Load generator, attackers,
# proxies and app share the cores: expect the comparison, not the absolute numbers, to hold elsewhere.
#
# Exits 1 if honest clients are worse off than behind nginx: a rate below 0.9 of it, or a p99 above 1.1 of it and 5 ms, or
# errors where nginx has none. --smoke shows that it runs: one short round, and a goal only for us: honest clients are served.
# Needs nginx, wrk, slowhttptest and curl (sh tests/peers.sh tools), and builds the release
# binary unless NITROTAP_BIN names one.
set -euo pipefail

rounds=${ROUNDS:-3}
each=${SECONDS_EACH:-8}
attackers=${ATTACKERS:-300}
limit=${UPSTREAM:-64}
modes=(quiet H B X)
smoke=
# shellcheck source=tests/proxies.sh
source "$(dirname "${BASH_SOURCE[0]}")/../proxies.sh"

main() {
    case "${1:-}" in
        "") ;;
        --smoke) smoke=yes rounds=1 each=3 attackers=100 ;;
        *) fail "usage: tests/bench/slow_clients.sh [--smoke]" ;;
    esac
    proxies_need slowhttptest
    start
    missed=
    local mode
    printf '%-8s %12s %12s %12s %12s %8s %8s\n' \
        attack 'nginx req/s' 'ours req/s' 'nginx p99 ms' 'ours p99 ms' 'n. errs' 'our errs'
    for mode in "${modes[@]}"; do
        measure "$mode"
    done
    curl -s "http://127.0.0.1:$metrics/metrics" | grep -E '_(slow_transfers|buffer|clients_timed_out|errors)' | grep -v ' 0$' | grep -v '^#' || true
    [[ -z $missed ]] || { echo "honest clients were worse off than behind nginx"; exit 1; }
}

# Starts the app and both proxies, and waits until they answer.
start() {
    proxies_begin
    mkdir "$scratch/www"
    echo hello >"$scratch/www/small"
    head -c 262144 /dev/zero >"$scratch/www/large"
    chmod -R a+rX "$scratch"
    start_nginx app <<CONF
        server {
            listen 127.0.0.1:$app backlog=4096;
            root $scratch/www;
            location = /post { return 200 "hello\n"; }
        }
CONF
    proxies_start /small "zone app 64k; server 127.0.0.1:$app max_conns=$limit; keepalive $limit;" \
        --max-upstream-connections "$limit" --header-timeout 60 --body-timeout 60 --send-timeout 60
}

# All rounds of one kind of attack on both, and a line of the table.
measure() {
    local mode=$1 round who
    rm -f "$scratch"/{nginx,ours}.{rate,p99,bad}
    for ((round = 1; round <= rounds; round++)); do
        for who in $(proxies_in_turn "$round"); do
            attack "$mode" "${port_of[$who]}"
            load "${port_of[$who]}" "$who"
            end_attack
        done
    done
    local theirs mine their_p99 my_p99 their_bad my_bad
    theirs=$(median "$scratch/nginx.rate") mine=$(median "$scratch/ours.rate")
    their_p99=$(median "$scratch/nginx.p99") my_p99=$(median "$scratch/ours.p99")
    their_bad=$(total "$scratch/nginx.bad") my_bad=$(total "$scratch/ours.bad")
    printf '%-8s %12s %12s %12s %12s %8s %8s\n' "$mode" "$theirs" "$mine" "$their_p99" "$my_p99" "$their_bad" "$my_bad"
    if [[ -n $smoke ]]; then
        awk -v rate="$mine" 'BEGIN { exit !(rate > 0) }' || fail "no honest client was served during $mode"
        return
    fi
    awk -v a="$mine" -v b="$theirs" -v p="$my_p99" -v q="$their_p99" -v m="$my_bad" -v n="$their_bad" \
        'BEGIN { exit !(a >= 0.9 * b && (p <= 1.1 * q || p <= 5) && (m == 0 || n > 0)) }' || missed=yes
}

# Starts slow clients and lets them take their places.
attack() {
    local url=http://127.0.0.1:$2 kind
    attacker=
    case $1 in
        quiet) return ;;
        H) kind=(-H -i 10 -u "$url/small") ;;
        B) kind=(-B -i 10 -s 8192 -x 24 -t POST -u "$url/post") ;;
        X) kind=(-X -w 512 -y 1024 -n 5 -z 32 -k 1 -u "$url/large") ;;
    esac
    slowhttptest -c "$attackers" -r 200 -p 3 -l $((each + 30)) "${kind[@]}" >"$scratch/attack.log" 2>&1 &
    attacker=$!
    pids+=("$attacker")
    sleep 3
}

end_attack() {
    [[ -n $attacker ]] || return 0
    kill "$attacker" 2>/dev/null || true
    wait "$attacker" 2>/dev/null || true
    # What it held is given back before the next run.
    sleep 1
}

# What 20 honest clients get: requests per second, p99 in milliseconds, failed requests.
load() {
    wrk -t2 -c20 -d "$each"s --timeout 5s --latency "http://127.0.0.1:$1/small" >"$scratch/wrk.log" 2>&1 || true
    awk '
        function ms(text) {
            if (text ~ /us$/) return text / 1000
            if (text ~ /ms$/) return text + 0
            if (text ~ /m$/) return text * 60000
            return text * 1000
        }
        /Requests\/sec/ { rate = $2 }
        $1 == "99%" { p99 = ms($2) }
        /Non-2xx/ { bad += $NF }
        /Socket errors/ { gsub(/[^0-9 ]/, ""); for (i = 1; i <= NF; i++) bad += $i }
        END { print int(rate) > rates; printf "%.2f\n", p99 > p99s; print bad + 0 > bads }
    ' rates=/dev/fd/4 p99s=/dev/fd/5 bads=/dev/fd/6 "$scratch/wrk.log" \
        4>>"$scratch/$2.rate" 5>>"$scratch/$2.p99" 6>>"$scratch/$2.bad"
}

total() {
    awk '{ n += $1 } END { print n + 0 }' "$1"
}

main "$@"
