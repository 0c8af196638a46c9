//! Zones answered here: gvproxy's, matched without regard to case.
//!
//! A zone `example.com.` is about every name below `example.com`, not about that name itself, which goes upstream; the
//! zones `.` and the empty one are about every name. Within a zone the first record that fits decides, of each family of
//! addresses; else the default address; else the name does not exist. A name that has an address of one family alone exists, and
//! has no data of the other.

use super::{PATTERN_LEN_MAX, PATTERNS_MAX, RECORDS_MAX, ZONES_MAX, addresses::text};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use hickory_proto::rr::Name;
use regex_lite::{Regex, RegexBuilder};

/// Bytes of a compiled pattern, at most: a hundredfold of what a usual one takes.
const PATTERN_SIZE: usize = 64 * 1024;

/// Names with a common end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zone {
    /// What the names end in, with or without a dot at the end.
    pub name: String,
    /// The first that fits a name gives its address.
    pub records: Vec<Record>,
    /// The address of all other names; without it they do not exist.
    pub default_ip: Option<IpAddr>,
}

/// One address, for the names that fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What precedes the zone's name; fits nothing if empty.
    pub name: String,
    /// The address.
    pub ip: IpAddr,
    /// Fits what precedes the zone's name if it matches anywhere in it: anchor it to match all.
    pub regexp: Option<String>,
}

/// A zone that cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ZoneError {
    /// Not a domain name.
    #[error("{0:?} is no domain name")]
    Name(String),
    /// The regular expression has a fault, or is too large.
    #[error("regular expression {pattern:?}: {cause}")]
    Pattern {
        /// As given, cut to 64 characters.
        pattern: String,
        /// What is wrong.
        cause: String,
    },
    /// Too much.
    #[error("more than {max} {what}")]
    TooMany {
        /// Zones, records or patterns.
        what: &'static str,
        /// How many there may be.
        max: usize,
    },
}

/// gvproxy's own zones: the gateway and the host under `containers.internal.` and `docker.internal.`; with their addresses of
/// IPv6 too if they have some.
#[must_use]
pub fn default_zones(gateway: Ipv4Addr, host: Ipv4Addr, v6: Option<(Ipv6Addr, Ipv6Addr)>) -> Vec<Zone> {
    let record = |name: &str, ip| Record { name: name.to_owned(), ip, regexp: None };
    let mut records = vec![record("gateway", gateway.into()), record("host", host.into())];
    if let Some((gateway, host)) = v6 {
        records.extend([record("gateway", gateway.into()), record("host", host.into())]);
    }
    ["containers.internal.", "docker.internal."]
        .map(|name| Zone { name: name.to_owned(), records: records.clone(), default_ip: None })
        .to_vec()
}

/// What the zones say of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Local {
    /// It is in none of them.
    Foreign,
    /// It has an address, of one family at least.
    Known(Option<Ipv4Addr>, Option<Ipv6Addr>),
    /// It does not exist.
    Missing,
}

/// All zones, in order.
#[derive(Debug, Default)]
pub(super) struct Zones(Vec<Compiled>);

#[derive(Debug)]
struct Compiled {
    zone: Zone,
    /// Lower case, with a dot before it and none behind; empty for all names.
    suffix: String,
    /// One for each of the zone's records.
    matchers: Vec<Matcher>,
}

#[derive(Debug)]
struct Matcher {
    /// Lower case.
    name: String,
    pattern: Option<Regex>,
}

impl Zones {
    /// Adds a zone, or its records before those of the zone of that name, whose default address it replaces.
    pub(super) fn add(&mut self, mut zone: Zone) -> Result<(), ZoneError> {
        let suffix = suffix(&zone.name)?;
        self.check_room(&zone, &suffix)?;
        let mut matchers = zone.records.iter().map(Matcher::new).collect::<Result<Vec<_>, _>>()?;
        match self.0.iter_mut().find(|known| known.suffix == suffix) {
            Some(known) => {
                zone.records.append(&mut known.zone.records);
                matchers.append(&mut known.matchers);
                known.zone = Zone { name: core::mem::take(&mut known.zone.name), ..zone };
                known.matchers = matchers;
            }
            None => self.0.push(Compiled { zone, suffix, matchers }),
        }
        Ok(())
    }

    fn check_room(&self, zone: &Zone, suffix: &str) -> Result<(), ZoneError> {
        let all = || self.0.iter().map(|known| &known.zone).chain([zone]).flat_map(|zone| &zone.records);
        let known = self.0.iter().any(|known| known.suffix == suffix);
        let zones = self.0.len() + usize::from(!known);
        let patterns = all().filter(|record| record.regexp.is_some()).count();
        for (count, what, max) in [
            (zones, "zones", ZONES_MAX),
            (all().count(), "records", RECORDS_MAX),
            (patterns, "regular expressions", PATTERNS_MAX),
        ] {
            if count > max {
                return Err(ZoneError::TooMany { what, max });
            }
        }
        Ok(())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Zone> {
        self.0.iter().map(|known| &known.zone)
    }

    /// `name` in lower case, without a dot at its end; the root, `.`, is below no zone.
    pub(super) fn lookup(&self, name: &str) -> Local {
        let below = |suffix: &str| name.strip_suffix(suffix).filter(|rest| !rest.is_empty() && *rest != ".");
        let hit = self.0.iter().find_map(|known| below(&known.suffix).map(|rest| (known, rest)));
        let Some((known, rest)) = hit else { return Local::Foreign };
        let (mut v4, mut v6) = (None, None);
        for (_, record) in known.matchers.iter().zip(&known.zone.records).filter(|(matcher, _)| matcher.fits(rest)) {
            match record.ip {
                IpAddr::V4(ip) => v4 = v4.or(Some(ip)),
                IpAddr::V6(ip) => v6 = v6.or(Some(ip)),
            }
        }
        match (v4, v6, known.zone.default_ip) {
            (None, None, None) => Local::Missing,
            (None, None, Some(IpAddr::V4(ip))) => Local::Known(Some(ip), None),
            (None, None, Some(IpAddr::V6(ip))) => Local::Known(None, Some(ip)),
            (v4, v6, _) => Local::Known(v4, v6),
        }
    }
}

impl Matcher {
    fn new(record: &Record) -> Result<Self, ZoneError> {
        if record.name.len() > 253 {
            return Err(ZoneError::Name(excerpt(&record.name)));
        }
        let pattern = record.regexp.as_deref().map(compile).transpose()?;
        Ok(Self { name: record.name.to_ascii_lowercase(), pattern })
    }

    fn fits(&self, name: &str) -> bool {
        (!self.name.is_empty() && self.name == name) || self.pattern.as_ref().is_some_and(|p| p.is_match(name))
    }
}

fn compile(pattern: &str) -> Result<Regex, ZoneError> {
    let error = |cause: String| ZoneError::Pattern { pattern: excerpt(pattern), cause };
    if pattern.len() > PATTERN_LEN_MAX {
        return Err(error(format!("longer than {PATTERN_LEN_MAX} bytes")));
    }
    let mut builder = RegexBuilder::new(pattern);
    builder.case_insensitive(true).size_limit(PATTERN_SIZE).nest_limit(50);
    builder.build().map_err(|e| error(e.to_string()))
}

fn suffix(zone: &str) -> Result<String, ZoneError> {
    let name = Name::from_ascii(zone).map_err(|_| ZoneError::Name(excerpt(zone)))?;
    Ok(if name.iter().next().is_none() { String::new() } else { format!(".{}", text(&name)) })
}

fn excerpt(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 1);
    const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 254);

    fn ip(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    fn known(ip: IpAddr) -> Local {
        match ip {
            IpAddr::V4(ip) => Local::Known(Some(ip), None),
            IpAddr::V6(ip) => Local::Known(None, Some(ip)),
        }
    }

    fn record(name: &str, last: u8) -> Record {
        Record { name: name.to_owned(), ip: ip(last), regexp: None }
    }

    fn pattern(pattern: &str, last: u8) -> Record {
        Record { name: String::new(), ip: ip(last), regexp: Some(pattern.to_owned()) }
    }

    fn zone(name: &str, records: Vec<Record>, default_ip: Option<IpAddr>) -> Zone {
        Zone { name: name.to_owned(), records, default_ip }
    }

    fn zones(list: Vec<Zone>) -> Zones {
        let mut zones = Zones::default();
        for zone in list {
            zones.add(zone).expect("a zone");
        }
        zones
    }

    #[test]
    fn the_default_zones_know_gateway_and_host() {
        let zones = zones(default_zones(GATEWAY, HOST, None));
        for (name, expected) in [
            ("gateway.containers.internal", known(GATEWAY.into())),
            ("host.docker.internal", known(HOST.into())),
            ("other.docker.internal", Local::Missing),
            ("a.host.docker.internal", Local::Missing),
            ("docker.internal", Local::Foreign),
            ("hostdocker.internal", Local::Foreign),
            ("example.com", Local::Foreign),
            (".", Local::Foreign),
        ] {
            assert_eq!(zones.lookup(name), expected, "{name}");
        }
    }

    #[test]
    fn each_family_has_its_own_first_record() {
        let six: Ipv6Addr = "fd00::1".parse().expect("an address");
        let with = |name: &str, ip: IpAddr| Record { name: name.to_owned(), ip, regexp: None };
        let both = vec![record("both", 1), with("both", six.into()), record("both", 2), with("six", six.into())];
        let zones = zones(vec![zone("a.", both, Some(ip(9))), zone("b.", vec![], Some(six.into()))]);
        assert_eq!(zones.lookup("both.a"), Local::Known(Some(Ipv4Addr::new(10, 0, 0, 1)), Some(six)));
        assert_eq!(zones.lookup("six.a"), known(six.into()), "a record of either family keeps the default out");
        assert_eq!(zones.lookup("other.a"), known(ip(9)));
        assert_eq!(zones.lookup("other.b"), known(six.into()));
        let gateway = self::zones(default_zones(GATEWAY, HOST, Some((six, six)))).lookup("gateway.docker.internal");
        assert_eq!(gateway, Local::Known(Some(GATEWAY), Some(six)));
    }

    #[test]
    fn the_first_record_that_fits_decides_then_the_default() {
        let zones = zones(vec![
            zone("Example.COM", vec![pattern("^(api|www)[0-9]*$", 1), record("API", 2), record("", 3)], Some(ip(9))),
            zone("sub.example.com.", vec![record("api", 4)], None),
        ]);
        for (name, last) in [("api", 1), ("www42", 1), ("xapi", 9), ("api.sub", 9), ("*", 9)] {
            assert_eq!(zones.lookup(&format!("{name}.example.com")), known(ip(last)), "{name}");
        }
    }

    #[test]
    fn a_zone_of_a_known_name_goes_before_it_and_its_default_is_the_new_one() {
        let mut zones = zones(vec![zone("a.", vec![record("x", 1), record("y", 2)], Some(ip(9)))]);
        zones.add(zone("A", vec![record("x", 3), pattern("^z", 4)], None)).expect("a zone");
        assert_eq!(zones.lookup("x.a"), known(ip(3)));
        assert_eq!(zones.lookup("y.a"), known(ip(2)));
        assert_eq!(zones.lookup("zz.a"), known(ip(4)));
        assert_eq!(zones.lookup("w.a"), Local::Missing);
        let listed: Vec<_> = zones.iter().cloned().collect();
        let records = vec![record("x", 3), pattern("^z", 4), record("x", 1), record("y", 2)];
        assert_eq!(listed, [zone("a.", records, None)]);
    }

    #[test]
    fn a_zone_without_a_name_is_about_all_names() {
        for name in ["", "."] {
            let zones = zones(vec![zone(name, vec![record("www.example.com", 1)], Some(ip(9)))]);
            assert_eq!(zones.lookup("www.example.com"), known(ip(1)));
            assert_eq!(zones.lookup("com"), known(ip(9)));
            assert_eq!(zones.lookup("."), Local::Foreign);
        }
    }

    #[test]
    fn what_is_no_zone_changes_nothing() {
        let mut zones = zones(vec![zone("a.", vec![record("x", 1)], None)]);
        let long = "a.".repeat(127) + &"b".repeat(63);
        for bad in [
            zone(&"x".repeat(64), vec![], None),
            zone(&long, vec![], None),
            zone("a..b", vec![], None),
            zone("a.", vec![record("y", 2), pattern("(", 1)], None),
            zone("a.", vec![record("y", 2), pattern("(a{1000}){1000}", 1)], None),
            zone("a.", vec![pattern(&"a".repeat(PATTERN_LEN_MAX + 1), 1)], None),
            zone("a.", vec![pattern(&("(".repeat(60) + &")".repeat(60)), 1)], None),
            zone("a.", vec![record(&"x".repeat(254), 1)], None),
        ] {
            let error = zones.add(bad).expect_err("refused").to_string();
            assert!(error.len() < 300, "{error}");
        }
        assert_eq!(zones.lookup("y.a"), Local::Missing);
        assert_eq!(zones.iter().cloned().collect::<Vec<_>>(), [zone("a.", vec![record("x", 1)], None)]);
    }

    #[test]
    fn zones_records_and_patterns_are_bounded() {
        let many = |what| Err(ZoneError::TooMany { what, max: if what == "zones" { ZONES_MAX } else { RECORDS_MAX } });
        let mut full = zones((0..ZONES_MAX).map(|n| zone(&format!("z{n}."), vec![], None)).collect());
        assert_eq!(full.add(zone("more.", vec![], None)), many("zones"));
        assert_eq!(full.add(zone("z7.", vec![record("x", 1)], None)), Ok(()));
        assert_eq!(full.add(zone("z8.", vec![record("x", 1); RECORDS_MAX], None)), many("records"));
        assert_eq!(full.add(zone("z8.", vec![record("x", 1); RECORDS_MAX - 1], None)), Ok(()));
        assert_eq!(full.add(zone("z9.", vec![record("x", 1)], None)), many("records"));
        let mut patterns = zones(vec![zone("p.", vec![pattern("x", 1); PATTERNS_MAX], None)]);
        let max = PATTERNS_MAX;
        assert_eq!(
            patterns.add(zone("q.", vec![pattern("x", 1)], None)),
            Err(ZoneError::TooMany { what: "regular expressions", max })
        );
    }
}
