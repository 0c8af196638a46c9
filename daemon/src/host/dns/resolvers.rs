//! The host's resolvers, as resolv.conf(5) names them.

use super::files::Watched;
use nitrotap_core::time::Instant;
use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    path::Path,
    time::Duration,
};

/// Resolvers in use, as in the libc (`MAXNS`).
const SERVERS_MAX: usize = 3;
/// Domains of a search list in use.
const SEARCH_MAX: usize = 64;
/// How long one try waits if the file says nothing: the libc's 5 s would leave no time for a second try, because the
/// enclave's own libc waits that long for us.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How long a resolver that was silent is asked after the others.
const DEAD: Duration = Duration::from_secs(30);
/// How long all tries may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a `resolv.conf` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResolvConf {
    /// Resolvers, in the order in which they are asked.
    pub(crate) servers: Vec<SocketAddr>,
    /// Domains for short names.
    pub(crate) search: Vec<String>,
    /// What one try may take at most, if it is said.
    timeout: Option<Duration>,
    /// How often each resolver is asked, 1 to 5.
    attempts: u32,
    /// Whether each query begins with another resolver.
    rotate: bool,
}

/// Whom to ask, one after the other, and how long to wait for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) tries: Vec<SocketAddr>,
    pub(super) timeout: Duration,
}

impl ResolvConf {
    /// Reads the text of a file; what is not understood is left out, as the libc does. Without a resolver in it, or without a file,
    /// it is the one of this host: 127.0.0.1, and no other (resolv.conf(5); the libcs do not try `::1`).
    pub(crate) fn parse(text: &str) -> Self {
        let mut conf = Self { servers: vec![], search: vec![], timeout: None, attempts: 2, rotate: false };
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            // A keyword has to begin its line, so that comments (# and ;) are none.
            match words.next().filter(|word| line.starts_with(word)) {
                Some("nameserver") => {
                    let server = words.next().and_then(server);
                    conf.servers.extend(server.filter(|_| conf.servers.len() < SERVERS_MAX));
                }
                Some("search" | "domain") => {
                    conf.search = words.take(SEARCH_MAX).filter(|word| *word != ".").map(str::to_owned).collect();
                }
                Some("options") => words.for_each(|option| conf.option(option)),
                _ => {}
            }
        }
        if conf.servers.is_empty() {
            conf.servers.push((Ipv4Addr::LOCALHOST, 53).into());
        }
        conf
    }

    fn option(&mut self, option: &str) {
        let (name, value) = option.split_once(':').unwrap_or((option, ""));
        match (name, value.parse::<u32>()) {
            ("timeout", Ok(seconds)) => self.timeout = Some(Duration::from_secs(seconds.clamp(1, 30).into())),
            ("attempts", Ok(attempts)) => self.attempts = attempts.clamp(1, 5),
            ("rotate", _) => self.rotate = true,
            _ => {}
        }
    }

    /// The tries of the `n`th query. Whatever the timeout, each resolver gets its turn while the enclave still waits.
    fn plan(&self, n: usize) -> Plan {
        let count = self.servers.len();
        let first = if self.rotate { n % count } else { 0 };
        let round = self.servers.iter().cycle().skip(first).take(count);
        let tries = (0..self.attempts).flat_map(|_| round.clone().copied()).collect();
        let share = PATIENCE / u32::try_from(count).unwrap_or(u32::MAX);
        Plan { tries, timeout: self.timeout.unwrap_or(TIMEOUT).min(share) }
    }
}

/// An address of port 53; with a zone (`fe80::1%eth0`) if it is an IPv6 one that needs it.
fn server(word: &str) -> Option<SocketAddr> {
    let Some((address, zone)) = word.split_once('%') else {
        return Some(SocketAddr::new(word.parse::<IpAddr>().ok()?, 53));
    };
    let address: Ipv6Addr = address.parse().ok()?;
    let index = zone.parse().ok().or_else(|| {
        let zone = Some(zone).filter(|zone| !zone.contains('/'))?;
        fs::read_to_string(format!("/sys/class/net/{zone}/ifindex")).ok()?.trim().parse().ok()
    })?;
    Some(SocketAddrV6::new(address, 53, 0, index).into())
}

/// The search list of the `resolv.conf` at `path`, for DHCP; empty if it cannot be read.
pub(crate) fn search_domains(path: &Path) -> Vec<String> {
    let text = Watched::new(path.to_owned()).poll(Instant::ZERO).unwrap_or_default();
    ResolvConf::parse(&text).search
}

/// The resolvers now, whatever happens to the file.
#[derive(Debug)]
pub(super) struct Resolvers {
    file: Watched,
    conf: ResolvConf,
    queries: usize,
    /// Those that were silent, and until when that counts; no more than there are resolvers.
    dead: Vec<(SocketAddr, Instant)>,
    /// Of the resolvers instead of 53, for tests.
    port: Option<u16>,
}

impl Resolvers {
    pub(super) fn new(path: &Path, port: Option<u16>) -> Self {
        Self { file: Watched::new(path.to_owned()), conf: ResolvConf::parse(""), queries: 0, dead: vec![], port }
    }

    /// The tries of the next query.
    pub(super) fn plan(&mut self, now: Instant) -> Plan {
        if let Some(text) = self.file.poll(now) {
            self.conf = ResolvConf::parse(&text);
            self.dead.clear();
            tracing::debug!(servers = ?self.conf.servers, "read the host's resolvers");
        }
        self.queries = self.queries.wrapping_add(1);
        let mut plan = self.conf.plan(self.queries);
        if let Some(port) = self.port {
            plan.tries.iter_mut().for_each(|server| server.set_port(port));
        }
        // All are asked once before any is asked again, but those that were silent after the others.
        self.dead.retain(|(_, until)| now < *until);
        for round in plan.tries.chunks_mut(self.conf.servers.len().max(1)) {
            round.sort_by_key(|server| self.dead.iter().any(|(dead, _)| dead == server));
        }
        plan
    }

    /// A resolver has answered, or has not.
    pub(super) fn note(&mut self, now: Instant, server: SocketAddr, answered: bool) {
        let was = self.dead.len();
        self.dead.retain(|(dead, _)| *dead != server);
        if !answered && self.dead.len() < SERVERS_MAX {
            self.dead.push((server, now + DEAD));
            if self.dead.len() > was && self.conf.servers.len() > 1 {
                tracing::debug!(%server, "resolver is silent; others are asked first for a while");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_file_is_read_as_the_libc_reads_it() {
        let conf = ResolvConf::parse(
            "# nameserver 9.9.9.9\n; nameserver 9.9.9.9\n nameserver 9.9.9.9\nnameserver\t10.0.0.2 # first\n\
             nameserver 2001:db8::53\nnameserver what\nnameserver fe80::1%7\nnameserver 8.8.8.8\ndomain old.example\n\
             search a.example b.example .\noptions ndots:5 timeout:3 attempts:9 rotate edns0\nnameservers 1.1.1.1\n",
        );
        assert_eq!(conf.servers, addresses(&["10.0.0.2:53", "[2001:db8::53]:53", "[fe80::1%7]:53"]));
        assert_eq!(conf.search, ["a.example", "b.example"]);
        assert_eq!((conf.timeout, conf.attempts, conf.rotate), (Some(Duration::from_secs(3)), 5, true));
        let empty = ResolvConf::parse("options timeout:x attempts:0\n");
        assert_eq!((empty.timeout, empty.attempts, empty.rotate), (None, 1, false));
        assert_eq!(ResolvConf::parse("nameserver fe80::1%lo").servers, addresses(&["[fe80::1%1]:53"]));
        for none in ["", "nameserver fe80::1%../lo", "# nameserver 9.9.9.9\nsearch a.example"] {
            assert_eq!(ResolvConf::parse(none).servers, addresses(&["127.0.0.1:53"]), "{none:?}");
        }
    }

    #[test]
    fn each_resolver_gets_its_turn_in_time() {
        let conf = |text: &str| ResolvConf::parse(text);
        let [a, b] = ["10.0.0.1:53", "10.0.0.2:53"].map(|text| text.parse().unwrap());
        let two = "nameserver 10.0.0.1\nnameserver 10.0.0.2\n";
        assert_eq!(conf(two).plan(1), Plan { tries: vec![a, b, a, b], timeout: Duration::from_secs(2) });
        let slow = conf(&format!("{two}options timeout:30 attempts:1"));
        assert_eq!(slow.plan(1), Plan { tries: vec![a, b], timeout: Duration::from_millis(2500) });
        let rotating = conf(&format!("{two}options rotate timeout:1 attempts:1"));
        assert_eq!(rotating.plan(3), Plan { tries: vec![b, a], timeout: Duration::from_secs(1) });
        assert_eq!(rotating.plan(4).tries, [a, b]);
        assert_eq!(conf("options attempts:1").plan(1).tries, addresses(&["127.0.0.1:53"]));
    }

    #[test]
    fn a_silent_resolver_is_asked_after_the_others_for_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        fs::write(&path, "nameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n").unwrap();
        let mut resolvers = Resolvers::new(&path, None);
        let order = |resolvers: &mut Resolvers, at| {
            let plan = resolvers.plan(Instant::from_millis(at));
            plan.tries.iter().map(|server| server.to_string().as_bytes()[7]).collect::<Vec<_>>()
        };
        assert_eq!(order(&mut resolvers, 0), b"123123");
        resolvers.note(Instant::ZERO, "10.0.0.1:53".parse().unwrap(), false);
        assert_eq!(order(&mut resolvers, 0), b"231231");
        resolvers.note(Instant::ZERO, "10.0.0.2:53".parse().unwrap(), false);
        assert_eq!(order(&mut resolvers, 29_999), b"312312");
        // One that answers is as good as any, and so is one that was silent long ago.
        resolvers.note(Instant::ZERO, "10.0.0.1:53".parse().unwrap(), true);
        assert_eq!(order(&mut resolvers, 29_999), b"132132");
        assert_eq!(order(&mut resolvers, 30_000), b"123123");
    }

    #[test]
    fn resolvers_follow_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        fs::write(&path, "nameserver 10.0.0.1\noptions attempts:1\nsearch x.example").unwrap();
        let mut resolvers = Resolvers::new(&path, None);
        assert_eq!(resolvers.plan(Instant::ZERO).tries, addresses(&["10.0.0.1:53"]));
        assert_eq!(search_domains(&path), ["x.example"]);
        fs::write(&path, "nameserver 10.0.0.200\noptions attempts:1").unwrap();
        assert_eq!(resolvers.plan(Instant::from_millis(500)).tries, addresses(&["10.0.0.1:53"]));
        assert_eq!(resolvers.plan(Instant::from_millis(1500)).tries, addresses(&["10.0.0.200:53"]));
        assert_eq!(search_domains(&dir.path().join("none")), [] as [&str; 0]);
    }
}
