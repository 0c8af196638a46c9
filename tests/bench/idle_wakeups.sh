#!/usr/bin/env bash
# How often each thread of an idle enclave and an idle host wakes up: what a machine pays for nothing.
#
# A thread that moves frames must sleep until something moves. Looks at voluntary context switches
# (/proc/PID/task/TID/status, proc_pid_status(5)) over SECONDS_EACH (20) seconds, after SETTLE (10) for the last frames of
# the kernels' own making (neighbours, routers, the DHCP client).
#
#   tests/bench/idle_wakeups.sh [--smoke]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lab.sh"

SECONDS_EACH=${SECONDS_EACH:-20}
SETTLE=${SETTLE:-10}
if [[ ${1:-} == --smoke ]]; then
    SECONDS_EACH=2
    SETTLE=2
fi

wakeups() {
    local task
    for task in /proc/"$1"/task/*; do
        awk -v name="$(<"$task/comm")" -v tid="${task##*/}" \
            '$1 == "voluntary_ctxt_switches:" { print tid, name, $2 }' "$task/status"
    done
}

lab_start
lab_gateway nitrotap
lab_enclave
sleep "$SETTLE"
for process in "host $gateway" "enclave $enclave"; do
    wakeups "${process#* }" >"$scratch/before-${process% *}"
done
sleep "$SECONDS_EACH"
printf '%-8s %-16s %s\n' process thread "wake-ups in $SECONDS_EACH s"
for process in "host $gateway" "enclave $enclave"; do
    wakeups "${process#* }" | awk -v process="${process% *}" '
        NR == FNR { before[$1] = $NF; next }
        { printf "%-8s %-16s %d\n", process, $2, $NF - before[$1] }' "$scratch/before-${process% *}" -
done
