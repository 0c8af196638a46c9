//! Rules of the egress policy: what is taken can be written and read again, what is not says where, and a policy of it
//! keeps its order.

use nitrotap_core::{
    gateway::policy::{Policy, PolicyConfig, Proto, Rule, Verdict},
    time::Instant,
};
use std::net::IpAddr;

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

    let allow = Policy::new(PolicyConfig { allow: vec![rule.clone()], ..PolicyConfig::default() }).expect("one rule");
    let config = PolicyConfig { allow: vec![rule.clone()], deny: vec![rule], ..PolicyConfig::default() };
    // A name is not denied in part.
    let Ok(both) = Policy::new(config) else { return };
    for addr in ["1.1.1.1", "10.1.2.3", "127.0.0.1", "169.254.169.254", "2001:db8::1", "::ffff:1.1.1.1", "fe80::1"] {
        let addr: IpAddr = addr.parse().expect("an address");
        for (proto, port) in [(Proto::Tcp, 443), (Proto::Udp, 53), (Proto::Icmp, 0)] {
            if allow.verdict(Instant::ZERO, proto, addr, port) == Verdict::Allow {
                assert!(!addr.is_loopback());
                assert_ne!(both.verdict(Instant::ZERO, proto, addr, port), Verdict::Allow, "deny wins");
            }
        }
    }
    assert!(!both.name_allowed("example.com") || allow.name_allowed("example.com"));
}
