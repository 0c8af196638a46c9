//! Laws of the egress policy over random rules and flows from a small world, so that they meet often.

use nitrotap_core::{
    gateway::policy::{Action, HostAddresses, Policy, PolicyConfig, Proto, Reason, Rule, Verdict},
    time::Instant,
};
use quickcheck::{Arbitrary, Gen, QuickCheck, TestResult};
use std::net::{IpAddr, Ipv6Addr};

const ADDRESSES: [&str; 13] = [
    "10.0.0.1",
    "10.0.0.2",
    "10.0.1.1",
    "10.1.0.1",
    "127.0.0.1",
    "169.254.169.254",
    "2001:db8::1",
    "2001:db8::2",
    "2001:db8:1::1",
    "fd00:ec2::254",
    "10.0.1.9",
    "2001:db8::9",
    "169.254.169.253",
];
/// Two of them are the host's.
const HOST: [&str; 2] = ["10.0.1.9/32", "2001:db8::9/128"];
const DESTINATIONS: [&str; 15] = [
    "any",
    "10.0.0.1",
    "10.0.0.0/30",
    "10.0.0.0/16",
    "10.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "[2001:db8::1]",
    "[2001:db8::/48]",
    "[2001:db8::/32]",
    "[::/0]",
    "0.0.0.0/0",
    "host",
    "10.0.1.9",
    "enclaves",
];

#[derive(Clone, Debug)]
struct AnyRule(Rule);

impl Arbitrary for AnyRule {
    fn arbitrary(g: &mut Gen) -> Self {
        let proto = g.choose(&["", "tcp:", "udp:", "icmp:", "any:"]).expect("some");
        let dest = g.choose(&DESTINATIONS).expect("some");
        let ports = g.choose(&["", "", ":443", ":80-90", ":443,80"]).expect("some");
        let ports = if *proto == "icmp:" { "" } else { ports };
        Self(format!("{proto}{dest}{ports}").parse().expect("a rule"))
    }
}

#[derive(Clone, Copy, Debug)]
struct Flow {
    proto: Proto,
    addr: IpAddr,
    port: u16,
}

impl Arbitrary for Flow {
    fn arbitrary(g: &mut Gen) -> Self {
        Self {
            proto: *g.choose(&[Proto::Tcp, Proto::Udp, Proto::Icmp]).expect("some"),
            addr: g.choose(&ADDRESSES).expect("some").parse().expect("an address"),
            port: *g.choose(&[80, 85, 91, 443]).expect("some"),
        }
    }
}

#[derive(Clone, Debug)]
struct Rules {
    config: PolicyConfig,
}

impl Arbitrary for Rules {
    fn arbitrary(g: &mut Gen) -> Self {
        let mut rules = |most: usize| {
            let count = usize::arbitrary(g) % (most + 1);
            (0..count).map(|_| AnyRule::arbitrary(g).0).collect()
        };
        let (allow, deny) = (rules(4), rules(3));
        let default = *g.choose(&[None, None, Some(Action::Allow), Some(Action::Deny)]).expect("some");
        let (imds, host_loopback) = (bool::arbitrary(g), bool::arbitrary(g));
        Self { config: PolicyConfig { allow, deny, default, imds, host_loopback } }
    }
}

fn ask(config: &PolicyConfig, flow: Flow) -> Verdict {
    let mut policy = Policy::new(config.clone()).expect("few rules, none by name");
    policy.set_host(HOST.iter().map(|net| net.parse().expect("a network")).collect::<HostAddresses>());
    policy.verdict(Instant::ZERO, flow.proto, flow.addr, flow.port)
}

/// Whether a rule is about a flow that can be opened at all.
fn matches(rule: &Rule, flow: Flow) -> bool {
    let allow = ["any", "host", "169.254.0.0/16"].map(|rule| rule.parse().expect("a rule")).into();
    let config = PolicyConfig { allow, deny: vec![rule.clone()], imds: true, ..PolicyConfig::default() };
    ask(&config, flow) == Verdict::Deny(Reason::Rule)
}

/// Whether a flow is closed unless a rule or a flag is about its very destination.
fn is_kept_closed(flow: Flow) -> bool {
    matches!(ask(&PolicyConfig::default(), flow), Verdict::Deny(Reason::LinkLocal | Reason::Host))
}

/// Whether one allow rule alone opens such a flow.
fn opens(rule: &Rule, flow: Flow, imds: bool) -> bool {
    let config = PolicyConfig { allow: vec![rule.clone()], imds, ..PolicyConfig::default() };
    ask(&config, flow) == Verdict::Allow
}

fn check<A: quickcheck::Testable>(law: A) {
    // Laws that are about few of the flows discard the others.
    QuickCheck::new().tests(3_000).max_tests(300_000).quickcheck(law);
}

#[test]
fn deny_rules_win() {
    fn law(rules: Rules, rule: AnyRule, flow: Flow) -> TestResult {
        if !matches(&rule.0, flow) {
            return TestResult::discard();
        }
        let mut config = rules.config;
        config.deny.push(rule.0);
        TestResult::from_bool(ask(&config, flow) != Verdict::Allow)
    }
    check(law as fn(Rules, AnyRule, Flow) -> TestResult);
}

#[test]
fn the_order_of_rules_and_their_repetition_are_of_no_account() {
    fn law(rules: Rules, turn: u8, flow: Flow) -> bool {
        let mut turned = rules.config.clone();
        for list in [&mut turned.allow, &mut turned.deny] {
            let by = usize::from(turn) % list.len().max(1);
            list.rotate_left(by);
            if turn.is_multiple_of(2) {
                list.reverse();
            }
            list.extend(list.first().cloned());
        }
        ask(&rules.config, flow) == ask(&turned, flow)
    }
    check(law as fn(Rules, u8, Flow) -> bool);
}

#[test]
fn what_no_rule_matches_gets_the_default() {
    fn law(rules: Rules, flow: Flow) -> TestResult {
        let config = &rules.config;
        let fixed = is_kept_closed(flow) || flow.addr.is_loopback();
        if fixed || config.allow.iter().chain(&config.deny).any(|rule| matches(rule, flow)) {
            return TestResult::discard();
        }
        let expected = match config.default {
            Some(Action::Allow) => Verdict::Allow,
            Some(Action::Deny) => Verdict::Deny(Reason::Default),
            None if config.allow.is_empty() => Verdict::Allow,
            None => Verdict::Deny(Reason::Default),
        };
        TestResult::from_bool(ask(config, flow) == expected)
    }
    check(law as fn(Rules, Flow) -> TestResult);
}

#[test]
fn what_an_allow_rule_matches_is_open_unless_something_closes_it() {
    fn law(rules: Rules, rule: AnyRule, flow: Flow) -> TestResult {
        let mut config = rules.config;
        if !matches(&rule.0, flow) || config.deny.iter().any(|rule| matches(rule, flow)) {
            return TestResult::discard();
        }
        config.allow.push(rule.0);
        // Its own rule among them, or another, or the flag.
        let open = !is_kept_closed(flow) || config.allow.iter().any(|rule| opens(rule, flow, config.imds));
        TestResult::from_bool((ask(&config, flow) == Verdict::Allow) == open)
    }
    check(law as fn(Rules, AnyRule, Flow) -> TestResult);
}

#[test]
fn more_allow_rules_never_close_and_more_deny_rules_never_open() {
    fn law(rules: Rules, rule: AnyRule, flow: Flow) -> bool {
        // A first allow rule turns the default round, which is the one way to close something with it.
        let config = PolicyConfig { default: rules.config.default.or(Some(Action::Deny)), ..rules.config };
        let before = ask(&config, flow) == Verdict::Allow;
        let mut wider = config.clone();
        wider.allow.push(rule.0.clone());
        let mut narrower = config;
        narrower.deny.push(rule.0);
        let wider = ask(&wider, flow) == Verdict::Allow;
        let narrower = ask(&narrower, flow) == Verdict::Allow;
        (!before || wider) && (before || !narrower)
    }
    check(law as fn(Rules, AnyRule, Flow) -> bool);
}

#[test]
fn an_ipv4_address_in_ipv6_clothes_is_judged_as_itself() {
    fn law(rules: Rules, flow: Flow) -> TestResult {
        let IpAddr::V4(v4) = flow.addr else { return TestResult::discard() };
        let low = u128::from(v4.to_bits());
        let expected = ask(&rules.config, flow);
        TestResult::from_bool(
            [low, 0xffff << 32 | low, 0x0064_ff9b << 96 | low]
                .into_iter()
                .all(|bits| ask(&rules.config, Flow { addr: Ipv6Addr::from_bits(bits).into(), ..flow }) == expected),
        )
    }
    check(law as fn(Rules, Flow) -> TestResult);
}

#[test]
fn what_is_closed_as_ipv4_is_closed_in_the_clothes_of_tunnels() {
    fn law(rules: Rules, flow: Flow, sub: u16) -> TestResult {
        let IpAddr::V4(v4) = flow.addr else { return TestResult::discard() };
        let Verdict::Deny(reason) = ask(&rules.config, flow) else { return TestResult::discard() };
        if reason == Reason::Default {
            return TestResult::discard();
        }
        let low = u128::from(v4.to_bits());
        let (high, sub) = (low >> 16, u128::from(sub));
        let forms = [
            0x0064_ff9b_0001 << 80 | low,
            0x0064_ff9b_0001 << 80 | high << 64 | (low & 0xffff) << 40,
            0x2002 << 112 | low << 80 | sub,
            0x2001 << 112 | low << 64 | sub,
            0x2001 << 112 | 0x0808_0808 << 64 | !low & 0xffff_ffff,
            0x2001_0db8 << 96 | sub << 64 | 0x5efe << 32 | low,
            0x2001_0db8 << 96 | sub << 64 | 0x0200_5efe << 32 | low,
        ];
        TestResult::from_bool(
            forms.into_iter().all(|bits| {
                ask(&rules.config, Flow { addr: Ipv6Addr::from_bits(bits).into(), ..flow }) != Verdict::Allow
            }),
        )
    }
    check(law as fn(Rules, Flow, u16) -> TestResult);
}

#[test]
fn a_control_socket_is_closed_whatever_is_allowed() {
    fn law(rules: Rules, flow: Flow) -> TestResult {
        let mut policy = Policy::new(rules.config).expect("few rules, none by name");
        policy.set_host(HOST.iter().map(|net| net.parse().expect("a network")).collect::<HostAddresses>());
        policy.set_control(vec![([0; 4], flow.port).into()]);
        let own = HOST.iter().any(|net| net.split('/').next() == Some(&*flow.addr.to_string()));
        if !own || flow.proto != Proto::Tcp {
            return TestResult::discard();
        }
        let denied = Verdict::Deny(Reason::Control);
        TestResult::from_bool(policy.verdict(Instant::ZERO, flow.proto, flow.addr, flow.port) == denied)
    }
    check(law as fn(Rules, Flow) -> TestResult);
}

#[test]
fn what_is_written_is_read_as_the_same_rule() {
    fn law(rule: AnyRule) -> bool {
        rule.0.to_string().parse() == Ok(rule.0)
    }
    check(law as fn(AnyRule) -> bool);
}
