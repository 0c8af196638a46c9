//! What only the kernel knows, read from `/proc` when a scraper asks: our size, and what the TAP's queue dropped.
//!
//! Where `/proc` is not mounted the values are left out.

use crate::{logging, metrics::Sources};
use nitrotap_core::counters::{Desc, Kind};
use std::fs;

/// Adds the process's own gauges, under the names that Prometheus client libraries use.
pub(crate) fn add_process(sources: &Sources) {
    logging::add_counters(sources);
    sources.add(|tell| {
        if let Some(bytes) = resident_bytes() {
            tell(RESIDENT, bytes);
        }
        if let Ok(fds) = fs::read_dir("/proc/self/fd") {
            // Reading the folder takes a descriptor too.
            tell(OPEN_FDS, (fds.count() as u64).saturating_sub(1));
        }
    });
}

/// Adds what the kernel dropped because the queue of `tap` was full: the app sends faster than the stream takes.
pub(crate) fn add_tap_queue(sources: &Sources, tap: String) {
    sources.add(move |tell| {
        let dev = fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
        if let Some(drops) = tx_drops(&dev, &tap) {
            tell(TAP_QUEUE, drops);
        }
    });
}

/// TCP connections that apps have closed but whose last bytes the peer has not acknowledged.
pub(crate) fn unfinished_tcp() -> usize {
    ["/proc/self/net/tcp", "/proc/self/net/tcp6"]
        .into_iter()
        .map(|path| unfinished(&fs::read_to_string(path).unwrap_or_default()))
        .sum()
}

/// Counts FIN_WAIT1, LAST_ACK and CLOSING (`net/tcp_states.h`) in the text of `/proc/net/tcp`.
fn unfinished(tcp: &str) -> usize {
    let state = |line: &str| line.split_whitespace().nth(3).map(str::to_owned);
    tcp.lines().skip(1).filter_map(state).filter(|state| matches!(state.as_str(), "04" | "09" | "0B")).count()
}

const RESIDENT: Desc =
    Desc { name: "process_resident_memory_bytes", help: "Resident memory, in bytes.", labels: &[], kind: Kind::Gauge };
const OPEN_FDS: Desc =
    Desc { name: "process_open_fds", help: "Open file descriptors.", labels: &[], kind: Kind::Gauge };
const TAP_QUEUE: Desc = Desc {
    name: "nitrotap_drops",
    help: "Frames dropped, by cause.",
    labels: &[("direction", "tx"), ("cause", "tap_queue")],
    kind: Kind::Counter,
};

fn resident_bytes() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// The transmit drops of `interface` in the text of `/proc/net/dev`: the fourth number of its second half
/// (`net/core/net-procfs.c`).
fn tx_drops(dev: &str, interface: &str) -> Option<u64> {
    let counts = dev.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'))?;
    counts.split_whitespace().nth(RECEIVE_FIELDS + 3)?.parse().ok()
}

const RECEIVE_FIELDS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transmit_drops_are_found_by_the_whole_name() {
        let dev = "Inter-|   Receive  |  Transmit\n face |bytes packets\n  tap01: 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9\n  \
                   tap0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n";
        assert_eq!(tx_drops(dev, "tap0"), Some(12));
        assert_eq!(tx_drops(dev, "tap"), None);
    }

    #[test]
    fn closing_connections_are_counted_and_established_ones_are_not() {
        let line =
            |state| format!("   0: 027FA8C0:A2C4 FE7FA8C0:176E {state} 0002BF20:00000000 01:00000014 00000000\n");
        let tcp = format!("  sl  local_address rem_address   st tx_queue\n{}{}{}", line("01"), line("04"), line("06"));
        assert_eq!(unfinished(&tcp), 1);
    }

    #[test]
    fn this_process_has_a_size() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 100_000));
    }
}
