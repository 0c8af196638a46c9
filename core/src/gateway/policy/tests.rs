use super::*;
use core::time::Duration;

const NOW: Instant = Instant::from_millis(1);

fn rules(text: &[&str]) -> Vec<Rule> {
    text.iter().map(|rule| rule.parse().unwrap_or_else(|error| panic!("{error}"))).collect()
}

fn policy(allow: &[&str], deny: &[&str]) -> Policy {
    Policy::new(PolicyConfig { allow: rules(allow), deny: rules(deny), ..PolicyConfig::default() }).expect("a policy")
}

fn ask(policy: &Policy, at: Instant, proto: Proto, to: &str, port: u16) -> Verdict {
    policy.verdict(at, proto, to.parse().expect("an address"), port)
}

fn tcp(policy: &Policy, to: &str, port: u16) -> Verdict {
    ask(policy, NOW, Proto::Tcp, to, port)
}

#[test]
fn without_rules_everything_passes_but_what_is_never_a_destination() {
    let policy = policy(&[], &[]);
    for to in ["1.1.1.1", "10.0.0.1", "192.168.127.254", "240.0.0.1", "2001:db8::1", "fd00:ec3::253", "::ffff:1.1.1.1"]
    {
        assert_eq!(tcp(&policy, to, 443), Verdict::Allow, "{to}");
    }
    for (to, reason) in [
        ("0.0.0.0", Reason::Unspecified),
        ("0.1.2.3", Reason::Unspecified),
        ("::", Reason::Unspecified),
        ("127.0.0.1", Reason::Loopback),
        ("127.255.255.255", Reason::Loopback),
        ("::1", Reason::Loopback),
        ("::ffff:127.0.0.1", Reason::Loopback),
        ("::127.0.0.1", Reason::Loopback),
        ("64:ff9b::7f00:1", Reason::Loopback),
        ("::ffff:0.0.0.0", Reason::Unspecified),
        ("224.0.0.251", Reason::Multicast),
        ("ff02::1", Reason::Multicast),
        ("255.255.255.255", Reason::Broadcast),
        ("::ffff:255.255.255.255", Reason::Broadcast),
        ("169.254.169.254", Reason::LinkLocal),
        ("169.254.0.1", Reason::LinkLocal),
        ("::ffff:169.254.169.254", Reason::LinkLocal),
        ("64:ff9b::169.254.169.254", Reason::LinkLocal),
        ("fe80::1", Reason::LinkLocal),
        ("febf::1", Reason::LinkLocal),
        ("fd00:ec2::254", Reason::LinkLocal),
        ("fd00:ec2::23", Reason::LinkLocal),
    ] {
        assert_eq!(tcp(&policy, to, 80), Verdict::Deny(reason), "{to}");
    }
}

#[test]
fn no_rule_opens_what_is_never_a_destination_nor_metadata() {
    let policy = policy(&["any", "127.0.0.1", "169.254.169.254", "[::1]", "[fd00:ec2::254]", "[fe80::/10]"], &[]);
    for to in ["127.0.0.1", "169.254.169.254", "::1", "fd00:ec2::254", "fe80::1", "0.0.0.0", "224.0.0.1"] {
        assert!(matches!(tcp(&policy, to, 80), Verdict::Deny(_)), "{to}");
    }
}

#[test]
fn metadata_is_open_with_its_flag_and_can_still_be_denied() {
    let config = |allow: &[&str], deny: &[&str]| PolicyConfig {
        allow: rules(allow),
        deny: rules(deny),
        imds: true,
        ..PolicyConfig::default()
    };
    let open = Policy::new(config(&[], &[])).expect("a policy");
    assert_eq!(tcp(&open, "169.254.169.254", 80), Verdict::Allow);
    let strict = Policy::new(config(&["example.com"], &[])).expect("a policy");
    assert_eq!(tcp(&strict, "169.254.169.254", 80), Verdict::Allow);
    assert_eq!(tcp(&strict, "fd00:ec2::254", 80), Verdict::Allow);
    assert_eq!(tcp(&strict, "169.254.169.254", 22), Verdict::Deny(Reason::Default));
    let denied = Policy::new(config(&[], &["169.254.169.254"])).expect("a policy");
    assert_eq!(tcp(&denied, "169.254.169.254", 80), Verdict::Deny(Reason::Rule));
}

#[test]
fn the_metadata_flag_opens_no_other_link_local_service() {
    let with = |allow: &[&str]| {
        Policy::new(PolicyConfig { allow: rules(allow), imds: true, ..PolicyConfig::default() }).expect("a policy")
    };
    let others =
        ["169.254.169.253", "169.254.169.123", "169.254.170.2", "169.254.0.1", "fd00:ec2::253", "fd00:ec2::23"];
    for policy in [with(&[]), with(&["any"]), with(&["0.0.0.0/0", "[::/0]"]), with(&["169.0.0.0/8", "[fd00::/8]"])] {
        for to in others {
            assert_eq!(tcp(&policy, to, 80), Verdict::Deny(Reason::LinkLocal), "{to}");
        }
    }
    // A rule about them and nothing else opens them, with the flag or without, and not the metadata service.
    let rules =
        ["udp:169.254.169.123:123", "169.254.170.0/24", "[fd00:ec2::253]", "169.254.169.254", "[fd00:ec2::/32]"];
    let open = policy(&rules, &["169.254.170.9"]);
    for (proto, to, port, expected) in [
        (Proto::Udp, "169.254.169.123", 123, Verdict::Allow),
        (Proto::Udp, "::ffff:169.254.169.123", 123, Verdict::Allow),
        (Proto::Udp, "169.254.169.123", 124, Verdict::Deny(Reason::LinkLocal)),
        (Proto::Tcp, "169.254.170.2", 80, Verdict::Allow),
        (Proto::Tcp, "169.254.170.9", 80, Verdict::Deny(Reason::Rule)),
        (Proto::Tcp, "fd00:ec2::253", 53, Verdict::Allow),
        (Proto::Tcp, "169.254.169.254", 80, Verdict::Deny(Reason::LinkLocal)),
        (Proto::Tcp, "fd00:ec2::254", 80, Verdict::Deny(Reason::LinkLocal)),
    ] {
        assert_eq!(ask(&open, NOW, proto, to, port), expected, "{proto} {to} {port}");
    }
}

fn with_host(mut policy: Policy) -> Policy {
    let own = ["10.9.0.1/32", "10.9.1.0/24", "2001:db8::9/128", "fd00::9/128"];
    policy.set_host(own.iter().map(|net| net.parse().expect("a network")).collect());
    policy
}

#[test]
fn the_host_s_own_addresses_are_closed_unless_a_rule_names_them() {
    let denied = Verdict::Deny(Reason::Host);
    let own = [
        "10.9.0.1",
        "10.9.1.77",
        "::ffff:10.9.0.1",
        "64:ff9b::10.9.0.1",
        "2001:db8::9",
        "2002:a09:1::",
        "64:ff9b:1::10.9.0.1",
    ];
    for policy in [policy(&[], &[]), policy(&["any", "10.0.0.0/8", "10.9.0.0/31", "[2001:db8::/32]"], &[])] {
        let policy = with_host(policy);
        for to in own {
            assert_eq!(tcp(&policy, to, 22), denied, "{to}");
            assert_eq!(ask(&policy, NOW, Proto::Udp, to, 22), denied, "{to}");
        }
        assert_eq!(tcp(&policy, "10.9.0.0", 22), Verdict::Allow);
    }
    let open = with_host(policy(&["any", "tcp:host:443", "udp:10.9.0.1:53"], &["[fd00::9]"]));
    for to in own {
        assert_eq!(tcp(&open, to, 443), Verdict::Allow, "{to}");
        assert_eq!(tcp(&open, to, 22), denied, "{to}");
    }
    assert_eq!(ask(&open, NOW, Proto::Udp, "10.9.0.1", 53), Verdict::Allow, "who names the address means it");
    assert_eq!(ask(&open, NOW, Proto::Udp, "10.9.1.1", 53), denied);
    assert_eq!(tcp(&open, "fd00::9", 443), Verdict::Deny(Reason::Rule));
    assert_eq!(tcp(&open, "127.0.0.1", 443), Verdict::Deny(Reason::Loopback), "the loopback has a flag of its own");
    let without = with_host(policy(&["host"], &["host:22"]));
    assert_eq!(tcp(&without, "10.9.0.1", 22), Verdict::Deny(Reason::Rule));
    assert_eq!(tcp(&without, "9.9.9.9", 443), Verdict::Deny(Reason::Default), "it is an allow rule like any other");
}

#[test]
fn the_host_s_addresses_are_those_of_now() {
    let mut policy = with_host(policy(&[], &[]));
    policy.set_host(["10.9.0.2/32"].iter().map(|net| net.parse().expect("a network")).collect());
    assert_eq!(tcp(&policy, "10.9.0.1", 22), Verdict::Allow);
    assert_eq!(tcp(&policy, "10.9.0.2", 22), Verdict::Deny(Reason::Host));
}

#[test]
fn a_name_that_is_allowed_opens_no_address_of_the_host() {
    let mut policy = with_host(policy(&["example.com"], &[]));
    policy.learn(NOW, "example.com", "10.9.0.1".parse().expect("an address"), 300);
    policy.learn(NOW, "example.com", "169.254.170.2".parse().expect("an address"), 300);
    assert_eq!(tcp(&policy, "10.9.0.1", 443), Verdict::Deny(Reason::Host));
    assert_eq!(tcp(&policy, "169.254.170.2", 443), Verdict::Deny(Reason::LinkLocal));
}

#[test]
fn no_rule_and_no_flag_opens_a_control_socket() {
    let config = |control: &[&str]| {
        let allow = rules(&["any", "host", "10.9.0.1", "[2001:db8::9]"]);
        let config = PolicyConfig { allow, host_loopback: true, ..PolicyConfig::default() };
        let mut policy = with_host(Policy::new(config).expect("a policy"));
        policy.set_control(control.iter().map(|socket| socket.parse().expect("a socket")).collect());
        policy
    };
    let control = Verdict::Deny(Reason::Control);
    let (six, four) = (IpAddr::V6(core::net::Ipv6Addr::LOCALHOST), HERE);
    for everywhere in ["0.0.0.0:99", "[::]:99"] {
        let policy = config(&[everywhere]);
        for to in ["10.9.0.1", "10.9.1.5", "::ffff:10.9.0.1", "64:ff9b::10.9.0.1", "2001:db8::9", "2002:a09:1::"] {
            assert_eq!(tcp(&policy, to, 99), control, "{to}");
            assert_eq!(tcp(&policy, to, 98), Verdict::Allow, "{to}");
            assert_eq!(ask(&policy, NOW, Proto::Udp, to, 99), Verdict::Allow, "{to}: over TCP alone");
        }
        assert_eq!(tcp(&policy, "9.9.9.9", 99), Verdict::Allow, "the same port elsewhere");
        for loopback in [four, six] {
            assert_eq!(policy.verdict_host_loopback(Proto::Tcp, loopback, 99), control);
            assert_eq!(policy.verdict_host_loopback(Proto::Tcp, loopback, 98), Verdict::Allow);
        }
        for real in ["127.0.0.1", "127.8.8.8", "10.9.0.1", "0.0.0.0"] {
            let real = real.parse().expect("an address");
            assert_eq!(policy.verdict_nat(Proto::Tcp, real, 99), control, "{real}");
            assert_eq!(policy.verdict_nat(Proto::Tcp, real, 98), Verdict::Allow, "{real}");
        }
    }
    let policy = config(&["127.0.0.1:99", "[::ffff:10.9.0.1]:98"]);
    assert_eq!(policy.verdict_host_loopback(Proto::Tcp, four, 99), control);
    assert_eq!(policy.verdict_host_loopback(Proto::Tcp, six, 99), Verdict::Allow, "it is not there");
    assert_eq!(tcp(&policy, "10.9.0.1", 99), Verdict::Allow, "it is not there");
    assert_eq!(tcp(&policy, "10.9.0.1", 98), control);
}

#[test]
fn what_is_closed_as_ipv4_is_closed_where_a_tunnel_leads_to_it() {
    let policy = policy(&["any"], &["10.0.0.0/8"]);
    for (to, reason) in [
        ("2002:a00:1::1", Reason::Rule),
        ("2002:7f00:1::1", Reason::Loopback),
        ("2002:a9fe:a9fe::", Reason::LinkLocal),
        ("64:ff9b:1::a00:1", Reason::Rule),
        ("64:ff9b:1::a9fe:a9fe", Reason::LinkLocal),
        ("64:ff9b:1:a00:0:100::", Reason::Rule),
        ("2001::5601:5601", Reason::LinkLocal),
        ("2001:0:a00:1::f7f7:f7f7", Reason::Rule),
        ("2001:db8::5efe:10.0.0.1", Reason::Rule),
        ("2001:db8::200:5efe:224.0.0.1", Reason::Multicast),
    ] {
        assert_eq!(tcp(&policy, to, 80), Verdict::Deny(reason), "{to}");
    }
    for to in ["2002:808:808::1", "64:ff9b:1::808:808", "2001:0:808:808::f7f7:f7f7", "2001:db8::5efe:8.8.8.8"] {
        assert_eq!(tcp(&policy, to, 80), Verdict::Allow, "{to}");
    }
}

#[test]
fn protocol_destination_and_port_must_all_match() {
    let policy =
        policy(&["tcp:10.0.0.0/8:443,8000-8010", "udp:any:53", "icmp:1.1.1.1", "[2001:db8::/32]"], &["10.1.0.0/16"]);
    let denied = Verdict::Deny(Reason::Default);
    for (proto, to, port, expected) in [
        (Proto::Tcp, "10.0.0.1", 443, Verdict::Allow),
        (Proto::Tcp, "::ffff:10.0.0.1", 8010, Verdict::Allow),
        (Proto::Tcp, "10.0.0.1", 8011, denied),
        (Proto::Tcp, "11.0.0.1", 443, denied),
        (Proto::Udp, "10.0.0.1", 443, denied),
        (Proto::Udp, "9.9.9.9", 53, Verdict::Allow),
        (Proto::Udp, "2001:db9::1", 53, Verdict::Allow),
        (Proto::Icmp, "1.1.1.1", 0, Verdict::Allow),
        (Proto::Icmp, "9.9.9.9", 53, denied),
        (Proto::Icmp, "2001:db8::9", 0, Verdict::Allow),
        (Proto::Tcp, "10.1.2.3", 443, Verdict::Deny(Reason::Rule)),
        (Proto::Udp, "64:ff9b::10.1.2.3", 53, Verdict::Deny(Reason::Rule)),
    ] {
        assert_eq!(ask(&policy, NOW, proto, to, port), expected, "{proto} {to} {port}");
    }
}

#[test]
fn icmp_is_not_what_a_rule_with_ports_is_about() {
    let policy = policy(&["any:443"], &[]);
    assert_eq!(tcp(&policy, "1.1.1.1", 443), Verdict::Allow);
    assert_eq!(ask(&policy, NOW, Proto::Icmp, "1.1.1.1", 443), Verdict::Deny(Reason::Default));
}

#[test]
fn the_default_follows_the_allow_rules_unless_it_is_given() {
    let deny = Verdict::Deny(Reason::Default);
    assert_eq!(tcp(&policy(&[], &["1.1.1.1"]), "9.9.9.9", 1), Verdict::Allow);
    assert_eq!(tcp(&policy(&["1.1.1.1"], &[]), "9.9.9.9", 1), deny);
    for (allow, action, expected) in [(vec!["1.1.1.1"], Action::Allow, Verdict::Allow), (vec![], Action::Deny, deny)] {
        let config = PolicyConfig { allow: rules(&allow), default: Some(action), ..PolicyConfig::default() };
        assert_eq!(tcp(&Policy::new(config).expect("a policy"), "9.9.9.9", 1), expected);
    }
}

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

#[test]
fn the_host_s_loopback_has_its_own_flag_and_deny_rules() {
    let closed = policy(&["any", "127.0.0.1"], &[]);
    assert_eq!(closed.verdict_host_loopback(Proto::Tcp, HERE, 80), Verdict::Deny(Reason::HostLoopback));
    let config = PolicyConfig {
        allow: rules(&["example.com"]),
        deny: rules(&["tcp:127.0.0.1:22"]),
        host_loopback: true,
        ..PolicyConfig::default()
    };
    let open = Policy::new(config).expect("a policy");
    assert_eq!(open.verdict_host_loopback(Proto::Tcp, HERE, 80), Verdict::Allow);
    assert_eq!(open.verdict_host_loopback(Proto::Udp, HERE, 22), Verdict::Allow);
    assert_eq!(open.verdict_host_loopback(Proto::Tcp, HERE, 22), Verdict::Deny(Reason::Rule));
    let config = PolicyConfig { deny: rules(&["host"]), host_loopback: true, ..PolicyConfig::default() };
    let denied = Policy::new(config).expect("a policy");
    assert_eq!(denied.verdict_host_loopback(Proto::Tcp, HERE, 80), Verdict::Deny(Reason::Rule), "it is the host's too");
}

#[test]
fn a_rule_about_the_loopback_of_ipv4_holds_for_that_of_ipv6_too() {
    let six = IpAddr::V6(core::net::Ipv6Addr::LOCALHOST);
    let config = PolicyConfig {
        deny: rules(&["tcp:127.0.0.1:22", "tcp:[::1]:25"]),
        host_loopback: true,
        ..PolicyConfig::default()
    };
    let open = Policy::new(config).expect("a policy");
    for (loopback, port, verdict) in [
        (six, 80, Verdict::Allow),
        (six, 22, Verdict::Deny(Reason::Rule)),
        (six, 25, Verdict::Deny(Reason::Rule)),
        (HERE, 25, Verdict::Allow),
    ] {
        assert_eq!(open.verdict_host_loopback(Proto::Tcp, loopback, port), verdict, "{loopback} {port}");
    }
    assert_eq!(policy(&[], &[]).verdict_host_loopback(Proto::Tcp, six, 80), Verdict::Deny(Reason::HostLoopback));
}

#[test]
fn names_are_resolved_if_rules_need_them_and_no_rule_denies_them() {
    type Texts = &'static [&'static str];
    // Allow rules, deny rules, names that are resolved, names that are not.
    let cases: [(Texts, Texts, Texts, Texts); 6] = [
        (&[], &[], &["example.com", "x.y", ""], &[]),
        (
            &[],
            &["evil.com", "*.bad.org"],
            &["example.com", "bad.org", "notevil.com", "a.evil.com"],
            &["evil.com", "EVIL.com.", "a.bad.org", "a.b.Bad.org.", "x\\.y.bad.org"],
        ),
        (
            &["example.com", "*.good.org:443"],
            &["x.good.org"],
            &["Example.com.", "a.good.org", "a.b.good.org"],
            &[
                "good.org",
                ".good.org",
                "a.example.com",
                "x.good.org",
                "notgood.org",
                "a.not-good.org",
                // One label that has a dot in it: a child of `org`, not of `good.org`.
                "a\\.good.org",
                "",
            ],
        ),
        (&["1.1.1.1"], &["evil.com"], &["example.com"], &["evil.com"]),
        (&["example.com", "tcp:any:443"], &[], &["example.com", "other.com"], &[]),
        (&["example.com", "1.1.1.1"], &[], &["example.com"], &["other.com"]),
    ];
    for (allow, deny, allowed, refused) in cases {
        let policy = policy(allow, deny);
        for name in allowed {
            assert!(policy.name_allowed(name), "{allow:?} {deny:?} {name}");
        }
        for name in refused {
            assert!(!policy.name_allowed(name), "{allow:?} {deny:?} {name}");
        }
    }
    let closed = PolicyConfig { default: Some(Action::Deny), ..PolicyConfig::default() };
    assert!(!Policy::new(closed).expect("a policy").name_allowed("example.com"), "questions leave the enclave too");
}

#[test]
fn a_learned_address_is_open_for_its_time_and_for_its_rule_only() {
    let mut policy = policy(&["tcp:*.example.com:443", "udp:www.example.com"], &["bad.example.com", "10.0.0.0/8"]);
    let at = |secs| NOW + Duration::from_secs(secs);
    let denied = Verdict::Deny(Reason::Default);
    let addr = |text: &str| text.parse().expect("an address");
    policy.learn(NOW, "WWW.example.com.", addr("1.2.3.4"), 300);
    policy.learn(NOW, "other.com", addr("1.2.3.5"), 300);
    policy.learn(NOW, "bad.example.com", addr("1.2.3.6"), 300);
    policy.learn(NOW, "in.example.com", addr("10.0.0.1"), 300);
    policy.learn(NOW, "local.example.com", addr("127.0.0.1"), 300);
    policy.learn(NOW, "six.example.com", addr("::ffff:1.2.3.7"), 300);
    assert_eq!(ask(&policy, at(299), Proto::Tcp, "1.2.3.4", 443), Verdict::Allow);
    assert_eq!(ask(&policy, at(299), Proto::Tcp, "::ffff:1.2.3.4", 443), Verdict::Allow);
    assert_eq!(ask(&policy, at(299), Proto::Tcp, "1.2.3.4", 80), denied);
    assert_eq!(ask(&policy, at(299), Proto::Udp, "1.2.3.4", 80), Verdict::Allow);
    assert_eq!(ask(&policy, at(300), Proto::Tcp, "1.2.3.4", 443), denied);
    assert_eq!(tcp(&policy, "1.2.3.5", 443), denied);
    assert_eq!(tcp(&policy, "1.2.3.6", 443), denied);
    assert_eq!(tcp(&policy, "10.0.0.1", 443), Verdict::Deny(Reason::Rule));
    assert_eq!(tcp(&policy, "127.0.0.1", 443), Verdict::Deny(Reason::Loopback));
    assert_eq!(tcp(&policy, "1.2.3.7", 443), Verdict::Allow);
}

#[test]
fn times_are_at_least_a_minute_and_at_most_a_day_and_learning_again_never_shortens_them() {
    let mut policy = policy(&["example.com"], &[]);
    let at = |secs| NOW + Duration::from_secs(secs);
    let denied = Verdict::Deny(Reason::Default);
    let addr: IpAddr = "1.2.3.4".parse().expect("an address");
    policy.learn(NOW, "example.com", addr, 0);
    assert_eq!(ask(&policy, at(59), Proto::Tcp, "1.2.3.4", 1), Verdict::Allow);
    assert_eq!(ask(&policy, at(60), Proto::Tcp, "1.2.3.4", 1), denied);
    policy.learn(NOW, "example.com", addr, u32::MAX);
    policy.learn(at(10), "example.com", addr, 60);
    assert_eq!(ask(&policy, at(86_399), Proto::Tcp, "1.2.3.4", 1), Verdict::Allow);
    assert_eq!(ask(&policy, at(86_400), Proto::Tcp, "1.2.3.4", 1), denied);
    assert_eq!(policy.learned(), 1);
    policy.learn(at(86_400), "example.com", "1.2.3.5".parse().expect("an address"), 60);
    assert_eq!((policy.learned(), policy.evicted()), (1, 0), "what has expired is gone");
}

#[test]
fn of_too_many_addresses_the_one_that_ends_first_is_forgotten() {
    let mut policy = policy(&["example.com"], &[]);
    let addr = |i: usize| IpAddr::V4(Ipv4Addr::from_bits(0x0100_0000 + i as u32));
    for i in 0..MAX_LEARNED + 100 {
        // The one in the middle ends first, whenever it came.
        policy.learn(NOW, "example.com", addr(i), if i == 2000 { 100 } else { 1000 + i as u32 });
        assert!(policy.learned() <= MAX_LEARNED);
    }
    assert_eq!((policy.learned(), policy.evicted()), (MAX_LEARNED, 100));
    for (i, open) in [(2000, false), (0, false), (98, false), (99, true), (1999, true), (MAX_LEARNED + 99, true)] {
        assert_eq!(policy.verdict(NOW, Proto::Tcp, addr(i), 1) == Verdict::Allow, open, "{i}");
    }
}

#[test]
fn rules_that_make_no_policy_are_refused() {
    let rule: Rule = "tcp:evil.com".parse().expect("a rule");
    let config = PolicyConfig { deny: vec![rule.clone()], ..PolicyConfig::default() };
    assert_eq!(Policy::new(config).err(), Some(PolicyError::DenyPartOfName { rule }));
    let config = PolicyConfig { allow: rules(&vec!["any"; MAX_RULES + 1]), ..PolicyConfig::default() };
    assert_eq!(Policy::new(config).err(), Some(PolicyError::TooManyRules { count: MAX_RULES + 1 }));
    assert!(Policy::new(PolicyConfig { deny: rules(&vec!["any"; MAX_RULES]), ..PolicyConfig::default() }).is_ok());
}

#[test]
fn every_verdict_has_its_counter() {
    use crate::counters::CounterSet as _;
    let mut counters = PolicyCounters::default();
    let reasons = [
        Reason::Unspecified,
        Reason::Loopback,
        Reason::Multicast,
        Reason::Broadcast,
        Reason::LinkLocal,
        Reason::HostLoopback,
        Reason::Host,
        Reason::Control,
        Reason::Rule,
        Reason::Default,
    ];
    counters.count(Verdict::Allow);
    for reason in reasons {
        counters.count(Verdict::Deny(reason));
    }
    let mut policy = policy(&["example.com"], &[]);
    policy.learn(NOW, "example.com", "1.2.3.4".parse().expect("an address"), 60);
    counters.observe(&policy);
    let mut values = Vec::new();
    counters.visit(|_, value| values.push(value));
    assert_eq!(values, [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0]);
}
