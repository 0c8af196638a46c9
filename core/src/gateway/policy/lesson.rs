//! What a DNS answer opens, worked out by whoever has the time for it.
//!
//! The name server's task reads answers, which may be long and made to be slow, and finds the rules that match; the gateway's
//! thread only takes addresses. Bounds: [`MAX_LESSON`] addresses, each for [`MAX_LESSON`] rules, and no more than [`MAX_OPENED`] in
//! all.

use super::{Dest, Policy, address, name};
use crate::{gateway::dns, time::Instant};
use core::net::IpAddr;

/// Addresses of one answer at most, and rules for them.
pub const MAX_LESSON: usize = 64;
/// Addresses of one answer times rules that match, at most.
pub const MAX_OPENED: usize = 256;

/// Addresses that a name was resolved to, and the rules that open them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lesson {
    /// Indices of allow rules.
    rules: Vec<usize>,
    /// With their times to live, in seconds.
    addresses: Vec<(IpAddr, u32)>,
}

impl Lesson {
    /// How much work it is to take it: addresses times rules.
    #[must_use]
    pub const fn weight(&self) -> usize {
        self.rules.len() * self.addresses.len()
    }
}

impl Policy {
    /// What an answer opens, for [`Policy::take`] of a policy with the same rules; `None` if nothing.
    #[must_use]
    pub fn lesson(&self, answer: &[u8]) -> Option<Lesson> {
        if !self.by_name {
            return None;
        }
        let name = dns::asked_name(answer)?;
        let rules = self.rules_for(&name);
        if rules.is_empty() {
            return None;
        }
        let most = (MAX_OPENED / rules.len()).clamp(1, MAX_LESSON);
        let found = dns::addresses(answer);
        let addresses: Vec<_> = found.into_iter().map(|(_, addr, ttl)| (addr, ttl)).take(most).collect();
        (!addresses.is_empty()).then_some(Lesson { rules, addresses })
    }

    /// Opens what a tenant's question has brought.
    pub fn take(&mut self, now: Instant, tenant: u32, lesson: &Lesson) {
        for (addr, ttl) in &lesson.addresses {
            for rule in lesson.rules.iter().filter(|rule| **rule < self.allow.len()) {
                self.learned.add(now, tenant, address::canonical(*addr), *rule, *ttl);
            }
        }
    }

    /// The allow rules that match a name which may be resolved.
    pub(super) fn rules_for(&self, name: &str) -> Vec<usize> {
        let name = name::normal(name);
        if !name::is_plain(&name) || !self.name_allowed(&name) {
            return Vec::new();
        }
        let matches = |dest: &Dest| matches!(dest, Dest::Name(pattern) if pattern.matches(&name));
        let rules = self.allow.iter().enumerate().filter(|(_, rule)| matches(&rule.dest)).map(|(i, _)| i);
        rules.take(MAX_LESSON).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::policy::{PolicyConfig, Proto, Verdict};
    use hickory_proto::{
        op::{Message, MessageType, OpCode, Query},
        rr::{Name, RData, Record, RecordType, rdata::A},
    };

    fn answer(name: &str, count: u32) -> Vec<u8> {
        let owner = Name::from_ascii(name).expect("a name");
        let mut message = Message::new(1, MessageType::Response, OpCode::Query);
        message.add_query(Query::query(owner.clone(), RecordType::A));
        let record = |n: u32| Record::from_rdata(owner.clone(), 300, RData::A(A(n.into())));
        message.add_answers((0..count).map(|n| record(0x0a00_0000 + n)));
        message.to_vec().expect("an answer")
    }

    fn policy(allow: &[&str]) -> Policy {
        let allow = allow.iter().map(|rule| rule.parse().expect("a rule")).collect();
        Policy::new(PolicyConfig { allow, ..PolicyConfig::default() }).expect("a policy")
    }

    #[test]
    fn an_answer_opens_what_the_rules_for_its_name_allow() {
        let mut gateway = policy(&["10.1.0.0/16", "tcp:*.example.com:443", "www.example.com:80"]);
        let lesson = gateway.lesson(&answer("WWW.example.com.", 2)).expect("a lesson");
        assert_eq!((lesson.rules.len(), lesson.addresses.len()), (2, 2));
        gateway.take(Instant::ZERO, 1, &lesson);
        let verdict = |port| gateway.verdict(Instant::ZERO, Proto::Tcp, IpAddr::from([10, 0, 0, 1]), port);
        assert_eq!([80, 443].map(verdict), [Verdict::Allow; 2]);
        assert_ne!(verdict(22), Verdict::Allow);
        assert_eq!(gateway.lesson(&answer("other.org.", 2)), None);
        assert_eq!(gateway.lesson(&answer("www.example.com.", 0)), None);
        assert_eq!(gateway.lesson(b"noise"), None);
    }

    #[test]
    fn where_no_rule_names_names_answers_are_not_even_read() {
        assert_eq!(policy(&[]).lesson(&answer("www.example.com.", 2)), None);
        assert_eq!(policy(&["10.0.0.0/8"]).lesson(&answer("www.example.com.", 2)), None);
    }

    #[test]
    fn one_answer_opens_so_much_and_no_more() {
        let rules: Vec<String> = (1..=200).map(|port| format!("example.com:{port}")).collect();
        let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
        for rules in [&rules[..1], &rules[..10], &rules[..]] {
            let mut gateway = policy(rules);
            let lesson = gateway.lesson(&answer("example.com.", 3000)).expect("a lesson");
            assert!(lesson.rules.len() <= MAX_LESSON && lesson.addresses.len() <= MAX_LESSON);
            gateway.take(Instant::ZERO, 1, &lesson);
            assert!((1..=MAX_OPENED).contains(&gateway.learned()), "{}", gateway.learned());
        }
    }
}
