//! Rules from their text form; see [`Rule`] for the grammar.

use super::{
    address,
    name::{self, MAX_LABEL, MAX_NAME, NamePattern},
    rule::{Dest, ENCLAVES, HOST, MAX_PORT_RANGES, Ports, Proto, Rule},
};
use core::{net::IpAddr, ops::RangeInclusive, str::FromStr};
use ipnet::IpNet;

/// What is wrong with the text of a rule, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rule `{rule}`, at `{part}` (byte {at}): {why}")]
pub struct RuleError {
    /// The whole text.
    pub rule: String,
    /// The part that is wrong; empty where something is missing.
    pub part: String,
    /// Where the part begins in the text, in bytes from 0.
    pub at: usize,
    /// What is wrong with it.
    pub why: Why,
}

/// What can be wrong with a part of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// There is none.
    #[error("a destination is missing: an address, a network, a name or `any`")]
    NoDestination,
    /// Brackets that do not match, or something behind them that is no ports.
    #[error("an IPv6 destination is written as [2001:db8::1] or [2001:db8::/32], ports follow as [2001:db8::1]:443")]
    Brackets,
    /// Neither an IPv6 address nor a network in brackets.
    #[error("what is in brackets is no IPv6 address or network")]
    NotIpv6,
    /// An IPv4 address in the form of an IPv6 one.
    #[error("this is an IPv4 destination in the form of an IPv6 one; write it as IPv4")]
    Ipv4InIpv6,
    /// A network or an address of digits and dots that is none.
    #[error("this is no IPv4 address or network")]
    NotIpv4,
    /// Bits behind the prefix.
    #[error("the address has bits behind the prefix of its network; the network is {0}")]
    HostBits(IpNet),
    /// `*` somewhere else than at the beginning, or alone.
    #[error("`*` is only allowed as in `*.example.com`; every destination is `any`")]
    Star,
    /// A character that names do not have.
    #[error("a name has letters, digits, `-`, `_` and dots only; write others in their xn-- form")]
    NameCharacter,
    /// An empty label.
    #[error("a name has no empty parts between its dots")]
    EmptyLabel,
    /// Over [`MAX_NAME`] or [`MAX_LABEL`].
    #[error("a name has at most {MAX_NAME} characters, and {MAX_LABEL} between two dots")]
    NameLength,
    /// A word with a meaning of its own, alone or with the dot that ends a name.
    #[error("a protocol is not a destination; write for example `tcp:any`")]
    ReservedName,
    /// A number that is no port.
    #[error("a port is a number from 1 to 65535")]
    Port,
    /// A range with nothing in it.
    #[error("the range ends before it begins")]
    RangeOrder,
    /// Over [`MAX_PORT_RANGES`].
    #[error("at most {MAX_PORT_RANGES} ports or ranges fit into a rule")]
    TooManyPorts,
    /// Ports with `icmp`.
    #[error("icmp has no ports")]
    IcmpPorts,
}

/// A part of the text and what is wrong with it.
type Bad<'a> = (&'a str, Why);

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        rule(text).map_err(|(part, why)| RuleError {
            rule: text.to_owned(),
            part: part.to_owned(),
            // `part` is a part of `text`.
            at: part.as_ptr().addr().saturating_sub(text.as_ptr().addr()),
            why,
        })
    }
}

fn rule(text: &str) -> Result<Rule, Bad<'_>> {
    let (proto, rest) = split_proto(text.trim());
    if rest.is_empty() {
        return Err((rest, Why::NoDestination));
    }
    let (dest, ports) = if let Some(bracketed) = rest.strip_prefix('[') {
        let (inside, behind) = bracketed.split_once(']').ok_or((rest, Why::Brackets))?;
        let ports = match behind.strip_prefix(':') {
            Some(ports) => Some(ports),
            None if behind.is_empty() => None,
            None => return Err((behind, Why::Brackets)),
        };
        (Dest::Net(ipv6(inside)?), ports)
    } else {
        let (dest, ports) = match rest.split_once(':') {
            Some((_, ports)) if ports.contains(':') => return Err((rest, Why::Brackets)),
            Some((dest, ports)) => (dest, Some(ports)),
            None => (rest, None),
        };
        (unbracketed(dest)?, ports)
    };
    if let Some(ports) = ports
        && proto == Some(Proto::Icmp)
    {
        return Err((ports, Why::IcmpPorts));
    }
    let ports = ports.map(parse_ports).transpose()?.unwrap_or_default();
    Ok(Rule { proto, dest, ports })
}

/// `any:443` is a destination with a port, and `any:example.com` a protocol with a destination.
fn split_proto(text: &str) -> (Option<Proto>, &str) {
    let Some((word, rest)) = text.split_once(':') else { return (None, text) };
    if let Some(proto) = Proto::ALL.into_iter().find(|proto| word.eq_ignore_ascii_case(proto.name())) {
        return (Some(proto), rest);
    }
    let is_ports = rest.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b',' | b'-'));
    if word.eq_ignore_ascii_case("any") && !is_ports { (None, rest) } else { (None, text) }
}

fn unbracketed(text: &str) -> Result<Dest, Bad<'_>> {
    if text.is_empty() {
        return Err((text, Why::NoDestination));
    }
    if text.eq_ignore_ascii_case("any") {
        return Ok(Dest::Any);
    }
    if text.eq_ignore_ascii_case(HOST) {
        return Ok(Dest::Host);
    }
    if text.eq_ignore_ascii_case(ENCLAVES) {
        return Ok(Dest::Enclaves);
    }
    let last = last_label(text);
    if text.contains('/') || (!last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit())) {
        return ipv4(text).map(Dest::Net);
    }
    pattern(text).map(Dest::Name)
}

/// The label that decides between a name and an address: no top-level domain is a number (RFC 3696 section 2).
fn last_label(text: &str) -> &str {
    let text = text.strip_suffix('.').unwrap_or(text);
    text.rsplit_once('.').map_or(text, |(_, last)| last)
}

fn ipv4(text: &str) -> Result<IpNet, Bad<'_>> {
    net(text).filter(|net| net.addr().is_ipv4()).ok_or((text, Why::NotIpv4)).and_then(|net| truncated(text, net))
}

fn ipv6(text: &str) -> Result<IpNet, Bad<'_>> {
    let net = net(text).filter(|net| net.addr().is_ipv6()).ok_or((text, Why::NotIpv6))?;
    if let IpAddr::V6(addr) = net.addr()
        && net.prefix_len() >= 96
        // All of ::/96, so that `::` and `::1` with a prefix do not stand for the others.
        && (address::embedded(addr).is_some() || (addr.to_bits() >> 32 == 0 && net.prefix_len() < 128))
    {
        return Err((text, Why::Ipv4InIpv6));
    }
    truncated(text, net)
}

fn net(text: &str) -> Option<IpNet> {
    if text.contains('/') { text.parse().ok() } else { text.parse::<IpAddr>().ok().map(IpNet::from) }
}

fn truncated(text: &str, net: IpNet) -> Result<IpNet, Bad<'_>> {
    let whole = net.trunc();
    if whole == net { Ok(net) } else { Err((text, Why::HostBits(whole))) }
}

fn pattern(text: &str) -> Result<NamePattern, Bad<'_>> {
    let (below, rest) = match text.strip_prefix("*.") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    if rest.contains('*') {
        return Err((text, Why::Star));
    }
    let plain = rest.strip_suffix('.').unwrap_or(rest);
    if plain.len() > MAX_NAME {
        return Err((text, Why::NameLength));
    }
    for label in plain.split('.') {
        if label.is_empty() {
            return Err((text, Why::EmptyLabel));
        }
        if label.len() > MAX_LABEL {
            return Err((label, Why::NameLength));
        }
        if !label.bytes().all(name::is_label_byte) {
            return Err((label, Why::NameCharacter));
        }
    }
    let mut words = Proto::ALL.into_iter().map(Proto::name).chain(["any"]);
    if !below && words.any(|word| plain.eq_ignore_ascii_case(word)) {
        return Err((text, Why::ReservedName));
    }
    Ok(NamePattern { name: name::normal(rest), below })
}

fn parse_ports(text: &str) -> Result<Ports, Bad<'_>> {
    let mut ranges = Vec::new();
    for item in text.split(',') {
        if ranges.len() == MAX_PORT_RANGES {
            return Err((text, Why::TooManyPorts));
        }
        ranges.push(match item.split_once('-') {
            Some((first, last)) => range(item, port(first)?, port(last)?)?,
            None => port(item)?..=port(item)?,
        });
    }
    Ok(Ports::new(ranges))
}

fn range(text: &str, first: u16, last: u16) -> Result<RangeInclusive<u16>, Bad<'_>> {
    if first <= last { Ok(first..=last) } else { Err((text, Why::RangeOrder)) }
}

fn port(text: &str) -> Result<u16, Bad<'_>> {
    // `parse` takes a sign, which a port has not.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port > 0).ok_or((text, Why::Port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_as_the_grammar_says_and_written_in_one_form() {
        for (text, canonical) in [
            ("any", "any"),
            ("ANY:any", "any"),
            ("any:443", "any:443"),
            ("any:any:443", "any:443"),
            ("any:80,443-445", "any:80,443-445"),
            ("tcp:any", "tcp:any"),
            ("icmp:any", "icmp:any"),
            ("1.2.3.4", "1.2.3.4"),
            ("1.2.3.4/32", "1.2.3.4"),
            (" UDP:10.0.0.0/8:53 ", "udp:10.0.0.0/8:53"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("[2001:DB8::1]", "[2001:db8::1]"),
            ("[2001:db8::/32]:1-65535", "[2001:db8::/32]:1-65535"),
            ("tcp:[::/0]:80", "tcp:[::/0]:80"),
            ("Example.COM.", "example.com"),
            ("any:example.com", "example.com"),
            ("tcp:*.example.com:443", "tcp:*.example.com:443"),
            ("_x.a-b.example:80", "_x.a-b.example:80"),
            ("HOST", "host"),
            ("any:host:80", "host:80"),
            ("tcp:host", "tcp:host"),
            ("udp:Enclaves:53", "udp:enclaves:53"),
            // A machine of that name.
            ("host.:80", "host.:80"),
            ("enclaves.", "enclaves."),
            ("*.host", "*.host"),
            ("localhost", "localhost"),
            ("any.example", "any.example"),
            ("1.example", "1.example"),
            ("1.1.1.1:90-95,80,81-89,443,443,97", "1.1.1.1:80-95,97,443"),
            ("1.1.1.1:65535,65534", "1.1.1.1:65534-65535"),
        ] {
            let rule: Rule = text.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(rule.to_string(), canonical);
            assert_eq!(canonical.parse(), Ok(rule));
        }
    }

    #[test]
    fn errors_say_what_is_wrong_and_where() {
        let net = "10.0.0.0/8".parse().expect("a network");
        let many = format!("any:{}1", "1,".repeat(MAX_PORT_RANGES));
        let long_label = format!("a.{}.com", "b".repeat(64));
        let long_name = format!("{}com", "abcdefg.".repeat(32));
        for (text, part, why) in [
            ("", "", Why::NoDestination),
            ("tcp:", "", Why::NoDestination),
            (":443", "", Why::NoDestination),
            ("tcp::443", "", Why::NoDestination),
            ("tcp", "tcp", Why::ReservedName),
            ("udp:icmp.", "icmp.", Why::ReservedName),
            ("any:any.:80", "any.", Why::ReservedName),
            ("tcp:443", "443", Why::NotIpv4),
            ("1.2.3", "1.2.3", Why::NotIpv4),
            ("1.2.3.4.", "1.2.3.4.", Why::NotIpv4),
            ("1.2.3.256:80", "1.2.3.256", Why::NotIpv4),
            ("1.2.3.4/33", "1.2.3.4/33", Why::NotIpv4),
            ("example.com/24", "example.com/24", Why::NotIpv4),
            ("10.1.2.3/8", "10.1.2.3/8", Why::HostBits(net)),
            ("2001:db8::1", "2001:db8::1", Why::Brackets),
            ("[2001:db8::1", "[2001:db8::1", Why::Brackets),
            ("[2001:db8::]/32", "/32", Why::Brackets),
            ("[1.2.3.4]", "1.2.3.4", Why::NotIpv6),
            ("[::ffff:1.2.3.4]", "::ffff:1.2.3.4", Why::Ipv4InIpv6),
            ("[64:ff9b::/96]", "64:ff9b::/96", Why::Ipv4InIpv6),
            ("[::/96]", "::/96", Why::Ipv4InIpv6),
            ("[::/127]", "::/127", Why::Ipv4InIpv6),
            ("*", "*", Why::Star),
            ("a.*.com", "a.*.com", Why::Star),
            ("*.*.com", "*.*.com", Why::Star),
            ("ex ample.com", "ex ample", Why::NameCharacter),
            ("www.bücher.example", "bücher", Why::NameCharacter),
            ("a..com", "a..com", Why::EmptyLabel),
            ("*.", "*.", Why::EmptyLabel),
            (".", ".", Why::EmptyLabel),
            (&long_label, &long_label[2..66], Why::NameLength),
            (&long_name, &long_name, Why::NameLength),
            ("any:0", "0", Why::Port),
            ("any:", "", Why::Port),
            ("any:80,", "", Why::Port),
            ("a.com:+80", "+80", Why::Port),
            ("a.com:65536", "65536", Why::Port),
            ("a.com:http", "http", Why::Port),
            ("a.com:80-", "", Why::Port),
            ("a.com:90-80", "90-80", Why::RangeOrder),
            ("icmp:any:8", "8", Why::IcmpPorts),
            (&many, &many[4..], Why::TooManyPorts),
        ] {
            let error = text.parse::<Rule>().expect_err(text);
            assert_eq!((error.part.as_str(), error.why), (part, why), "{text}");
            assert_eq!(&text[error.at..error.at + error.part.len()], error.part, "{text}");
        }
        let error = "tcp:example.com:80-x".parse::<Rule>().expect_err("no port");
        assert_eq!(
            error.to_string(),
            "rule `tcp:example.com:80-x`, at `x` (byte 19): a port is a number from 1 to 65535"
        );
    }
}
