#!/usr/bin/env bash
# Mixed traffic through nitrotap and the real gvproxy, which is killed and started again all the time.
#
#   tests/soak/mixed.sh [SECONDS [RESTART_EVERY]]      600 and 30 by default
#
# iperf3 out and in, wrk with keep-alive through the reverse proxy and without it straight to the app, UDP and DNS run
# side by side; $RATE (200M) limits each iperf3.
# Every second the drop counters are read: nitrotap's, its TAP queue's among them. Fails if the process died, if it holds
# more descriptors after the traffic than before, if memory grew by half, or if a frame was dropped outside the restart
# windows. A window lasts from the kill until nitrotap shows its link up.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lab.sh"

duration=${1:-600}
every=${2:-30}
rate=${RATE:-200M}
loops=()

main() {
    lab_start iperf3 wrk
    proxied=$(lab_port) direct=$(lab_port) out=$(lab_port) in=$(lab_port) echo=$(lab_port)
    lab_gateway
    # What a restart strands is given up soon, so that growth does not hide behind it.
    lab_enclave --listen 0.0.0.0:80 --upstream http://127.0.0.1:8080 --keep-alive-timeout 5 --idle-timeout 5
    lab_serve 8080 "$guest" http-server 0.0.0.0:8080
    expose
    sample
    fds_before=$fds
    traffic
    watch_it
    end_traffic
    verdict
}

expose() {
    lab_expose "$proxied" 80
    lab_expose "$direct" 8080
}

# Lets every run end, and then waits until nitrotap holds no more descriptors than before the traffic: the kernel needs up
# to a minute to give up peers that vanished with the last restart.
end_traffic() {
    local tries=0
    rss_end=$rss fds_end=$fds
    touch "$scratch/stop"
    wait "${loops[@]}" || true
    sample
    until ((fds <= fds_before || ++tries > 90)); do
        sleep 1
        sample
    done
}

# Each kind of traffic runs in a loop of its own: a restart ends its connections, and it starts over.
traffic() {
    iperf3 --server --bind 127.0.0.1 --port "$out" >"$scratch/iperf-out.log" 2>&1 {lab_hold}>&- &
    iperf3 --server --bind 127.0.0.1 --port "$in" >"$scratch/iperf-in.log" 2>&1 {lab_hold}>&- &
    "$guest" udp-echo "127.0.0.1:$echo" >"$scratch/udp-echo.log" 2>&1 {lab_hold}>&- &
    again iperf-out inside timeout 60 iperf3 --client "$HOST" --port "$out" --time "$((every > 16 ? 8 : every / 2))" --bitrate "$rate" --connect-timeout 2000
    again iperf-in inside timeout 60 iperf3 --client "$HOST" --port "$in" --time "$((every > 16 ? 8 : every / 2))" --bitrate "$rate" --reverse --connect-timeout 2000
    again wrk-keep wrk --threads 1 --connections 16 --duration 10s "http://127.0.0.1:$proxied/bytes/1000"
    again wrk-close wrk --threads 1 --connections 4 --duration 10s --header "Connection: close" "http://127.0.0.1:$direct/bytes/100"
    again udp inside timeout 60 "$guest" udp-ping "$HOST:$echo" 1400 5000
    again dns inside timeout 60 "$guest" dns-a gateway.containers.internal "$GATEWAY:53"
}

# Runs a command over and over, counting its successes and failures by name.
again() {
    local name=$1
    shift
    (
        exec {lab_hold}>&- 2>/dev/null
        trap - EXIT INT TERM
        until [[ -e $scratch/stop ]]; do
            if "$@" >>"$scratch/$name.log" 2>&1; then echo ok; else echo failed; fi >>"$scratch/$name.runs"
            sleep 0.2
        done
    ) &
    loops+=($!)
}

# Samples every second, restarts the gateway when it is time, and adds drops up in two places.
watch_it() {
    local start=$SECONDS next_restart=$((SECONDS + every)) line=0
    # Of a short run, its first half has to do.
    local minute=$((duration < 120 ? duration / 2 : 60))
    restarts=0 lost_inside=0 lost_outside=0 rss_minute=0 fds_minute=0
    sample
    while ((SECONDS - start < duration)); do
        local before=$drops
        if ((SECONDS >= next_restart)); then
            restart_gateway
            sample
            lost_inside=$((lost_inside + drops - before))
            next_restart=$((SECONDS + every))
            continue
        fi
        sleep 1
        sample
        if ((drops != before)); then
            lost_outside=$((lost_outside + drops - before))
            echo "second $((SECONDS - start)): $((drops - before)) frames dropped outside a restart window: $causes"
        fi
        if ((SECONDS - start <= minute)); then
            rss_minute=$rss
            fds_minute=$fds
        fi
        if ((++line % 10 == 0)); then
            printf 'second %4d: %6d KiB, %3d descriptors, %2d restarts, %9d frames out, %9d in, %d dropped in windows\n' \
                "$((SECONDS - start))" "$((rss / 1024))" "$fds" "$restarts" "$frames_out" "$frames_in" "$lost_inside"
        fi
    done
    sample
}

sample() {
    local page
    lab_enclave_runs
    page=$(lab_metrics) || lab_fail "no metrics: $(tail -n 5 "$scratch/nitrotap.log")"
    drops=$(lab_sum nitrotap_drops_total <<<"$page")
    causes=$(grep '^nitrotap_drops_total' <<<"$page" | sed 's/nitrotap_drops_total//' | grep -v ' 0$' | tr '\n' ' ' || true)
    rss=$(lab_sum process_resident_memory_bytes <<<"$page")
    fds=$(lab_sum process_open_fds <<<"$page")
    frames_out=$(lab_sum 'nitrotap_frames_total{direction="tx"}' <<<"$page")
    frames_in=$(lab_sum 'nitrotap_frames_total{direction="rx"}' <<<"$page")
    losses=$(lab_sum nitrotap_link_losses_total <<<"$page")
}

restart_gateway() {
    kill -KILL "$gateway"
    wait "$gateway" 2>/dev/null || true
    lab_gateway
    # It has forgotten its forwards.
    expose
    lab_until_up
    restarts=$((restarts + 1))
}

verdict() {
    local name bad=0
    echo
    echo "traffic (each run that a restart cut short counts as failed):"
    for name in iperf-out iperf-in wrk-keep wrk-close udp dns; do
        printf '  %-10s %4d runs complete, %4d cut short\n' "$name" \
            "$(grep -c ok "$scratch/$name.runs" || true)" "$(grep -c failed "$scratch/$name.runs" || true)"
    done
    requests=$(awk '/requests in/ { sum += $1 } END { print sum + 0 }' "$scratch"/wrk-*.log)
    # In a window wrk tries to connect again at once, all the time.
    echo "HTTP: $requests requests; errors:$(awk '
        /Socket errors/ { gsub(",", ""); for (i = 3; i < NF; i += 2) { sum[$i] += $(i + 1) } }
        END { for (kind in sum) printf " %s %d", kind, sum[kind] }' "$scratch"/wrk-*.log)"
    echo "frames: $frames_out out, $frames_in in; link losses: $losses for $restarts restarts"
    echo "memory: $((rss_minute / 1024)) KiB at minute 1, $((rss_end / 1024)) KiB at the end"
    echo "descriptors: $fds_before before the traffic, $fds_minute at minute 1, $fds_end at the end, $fds after it"
    echo "frames dropped: $lost_inside in restart windows, $lost_outside outside; by cause: $causes"
    ((fds <= fds_before)) || { echo "FAILED: descriptors leaked" && bad=1; }
    ((rss_end * 2 <= rss_minute * 3)) || { echo "FAILED: memory grew by more than half" && bad=1; }
    ((lost_outside == 0)) || { echo "FAILED: frames were dropped while the link was up" && bad=1; }
    ((losses == restarts)) || { echo "FAILED: the link was lost without a restart" && bad=1; }
    for name in iperf-out iperf-in wrk-keep wrk-close udp dns; do
        grep -q ok "$scratch/$name.runs" || { echo "FAILED: $name never completed: $(tail -n 2 "$scratch/$name.log")" && bad=1; }
    done
    ((bad == 0)) && echo "passed: the process stayed up for $duration s"
    return "$bad"
}

main
