//! Rules of the egress policy: what is taken can be written and read again, what is not says where, and a policy of it
//! keeps its order.

use ipnet::IpNet;
use nitrotap_core::{
    gateway::policy::{Dest, Policy, PolicyConfig, Proto, Rule, Verdict},
    time::Instant,
};
use std::net::{IpAddr, Ipv4Addr};

/// The host's address, and the port of its control socket.
const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1));
const CONTROL: u16 = 8080;

const ADDRESSES: [&str; 12] = [
    "1.1.1.1",
    "10.1.2.3",
    "10.9.0.1",
    "127.0.0.1",
    "169.254.169.254",
    "169.254.169.253",
    "2001:db8::1",
    "::ffff:1.1.1.1",
    "64:ff9b:1::10.1.2.3",
    "2002:a01:203::",
    "2001:0:a01:203::1",
    "fe80::1",
];

/// The ways to say it.
const HOSTS: [&str; 6] = [
    "10.9.0.1",
    "::ffff:10.9.0.1",
    "64:ff9b::10.9.0.1",
    "64:ff9b:1::10.9.0.1",
    "2002:a09:1::",
    "2001:db8::5efe:10.9.0.1",
];

/// What no rule opens, and the ways to say it.
const CLOSED: [&str; 9] = [
    "0.0.0.0",
    "127.0.0.1",
    "169.254.169.254",
    "::ffff:169.254.169.254",
    "64:ff9b:1::169.254.169.254",
    "2002:a9fe:a9fe::",
    "2001::5601:5601",
    "fd00:ec2::254",
    "fe80::1",
];

/// The input is the text of a rule.
pub fn policy_rule(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let rule: Rule = match text.parse() {
        Ok(rule) => rule,
        Err(error) => {
            assert_eq!(text.get(error.at..error.at + error.part.len()), Some(&*error.part), "{error}");
            return;
        }
    };
    let again = rule.to_string();
    assert_eq!(again.parse().as_ref(), Ok(&rule), "{again}");

    let mut allow =
        Policy::new(PolicyConfig { allow: vec![rule.clone()], ..PolicyConfig::default() }).expect("one rule");
    let names_host = rule.dest == Dest::Host || matches!(rule.dest, Dest::Net(net) if net.addr() == HOST);
    let config = PolicyConfig { allow: vec![rule.clone()], deny: vec![rule], ..PolicyConfig::default() };
    // A name is not denied in part.
    let Ok(mut both) = Policy::new(config) else { return };
    for policy in [&mut allow, &mut both] {
        policy.set_host([IpNet::from(HOST)].into_iter().collect());
        policy.set_control(vec![(HOST, CONTROL).into()]);
    }
    for addr in ADDRESSES {
        let addr: IpAddr = addr.parse().expect("an address");
        for (proto, port) in [(Proto::Tcp, 443), (Proto::Tcp, CONTROL), (Proto::Udp, 53), (Proto::Icmp, 0)] {
            if allow.verdict(Instant::ZERO, proto, addr, port) == Verdict::Allow {
                assert!(!addr.is_loopback());
                assert_ne!(both.verdict(Instant::ZERO, proto, addr, port), Verdict::Allow, "deny wins");
            }
        }
    }
    for addr in HOSTS {
        let addr: IpAddr = addr.parse().expect("an address");
        assert_ne!(
            allow.verdict(Instant::ZERO, Proto::Tcp, addr, CONTROL),
            Verdict::Allow,
            "{addr} is a control socket"
        );
        let open = allow.verdict(Instant::ZERO, Proto::Tcp, addr, 443) == Verdict::Allow;
        assert!(!open || names_host || addr.is_ipv6(), "{addr} is the host's");
    }
    for addr in CLOSED {
        let addr: IpAddr = addr.parse().expect("an address");
        assert_ne!(allow.verdict(Instant::ZERO, Proto::Tcp, addr, 80), Verdict::Allow, "{addr}");
    }
    assert!(!both.name_allowed("example.com") || allow.name_allowed("example.com"));
}
