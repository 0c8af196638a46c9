//! What only the kernel knows, read from `/proc` when a scraper asks: our size, and what the TAP's queue dropped.
//!
//! Where `/proc` is not mounted the values are left out.

use crate::{logging, metrics::Sources};
use nitrotap_core::counters::{Desc, Kind};
use std::{
    fs,
    net::{IpAddr, SocketAddr},
};

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

/// TCP connections of this network namespace that are open at this end: what is ours, and the peer's end.
pub(crate) fn open_tcp() -> Vec<(SocketAddr, SocketAddr)> {
    ["/proc/self/net/tcp", "/proc/self/net/tcp6"]
        .into_iter()
        .flat_map(|path| connections(&fs::read_to_string(path).unwrap_or_default()))
        .collect()
}

/// Those of the text of `/proc/net/tcp` that are established or half-closed (`net/tcp_states.h`): not what is being opened,
/// which asks by itself, nor what is only remembered. A socket for both families has its IPv4 addresses mapped.
fn connections(tcp: &str) -> Vec<(SocketAddr, SocketAddr)> {
    let connection = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let (local, remote, state) = (words.next()?, words.next()?, words.next()?);
        matches!(state, "01" | "04" | "05" | "08" | "09" | "0B").then_some(())?;
        Some((end(local)?, end(remote)?))
    };
    tcp.lines().skip(1).filter_map(connection).collect()
}

/// `ADDRESS:PORT`, the address in words of 32 bits as they lie in memory.
fn end(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| Some(u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let ip: IpAddr = match address.len() {
        8 => word(0)?.into(),
        32 => {
            let mut octets = [0; 16];
            for (n, four) in octets.chunks_mut(4).enumerate() {
                four.copy_from_slice(&word(n * 8)?);
            }
            IpAddr::from(octets).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
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
    fn open_connections_are_read_in_both_families() {
        let word = |octets: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(octets));
        let (ours, peers) = (word([192, 168, 127, 2]), word([203, 0, 113, 9]));
        let mapped = |v4: &str| [word([0; 4]), word([0; 4]), word([0, 0, 0xff, 0xff]), v4.to_owned()].concat();
        let six = [word([0xfd, 0, 0, 1]), word([0; 4]), word([0; 4]), word([0, 0, 0, 2])].concat();
        let line =
            |local: &str, remote: &str, state: &str| format!("   0: {local}:9C40 {remote}:01BB {state} 00000000\n");
        let head = "  sl  local_address rem_address   st\n";
        let text = [
            head.to_owned(),
            line(&ours, &peers, "01"),
            line(&ours, &peers, "0A"),
            line(&ours, &peers, "06"),
            line(&ours, &peers, "02"),
            line(&mapped(&ours), &mapped(&peers), "08"),
            line(&six, &six, "05"),
            "   0: junk".to_owned(),
        ]
        .concat();
        let four = (([192, 168, 127, 2], 40_000).into(), ([203, 0, 113, 9], 443).into());
        let six = |port| SocketAddr::new("fd00:1::2".parse().unwrap(), port);
        assert_eq!(connections(&text), [four, four, (six(40_000), six(443))]);
    }

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
