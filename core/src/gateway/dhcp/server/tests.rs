use super::*;
use crate::gateway::dhcp::{DECLINE_HOLD, OFFER_HOLD};
use core::time::Duration;
use dhcproto::{
    Decodable,
    v4::{Message, OptionCode},
};
use quickcheck::QuickCheck;
use std::collections::BTreeSet;

const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 1);
const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 254);
const FIXED: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 2);
const FIXED_MAC: [u8; 6] = [0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xee];
const LEASE: Duration = Duration::from_secs(3600);
const KEEP: Duration = Duration::from_secs(30);
/// Host addresses of a /24 without gateway, host and the static lease.
const ADDRESSES: usize = 251;

fn config() -> DhcpConfig {
    DhcpConfig {
        subnet: "192.168.127.0/24".parse().expect("a subnet"),
        gateway: GATEWAY,
        gateway_mac: [0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xdd],
        host: HOST,
        dns: vec![GATEWAY],
        mtu: 1500,
        search: Vec::new(),
        static_leases: BTreeMap::from([(FIXED, FIXED_MAC)]),
        lease_time: LEASE,
        pinned: BTreeSet::new(),
        keep_address: KEEP,
    }
}

fn mac(n: u16) -> [u8; 6] {
    let [high, low] = n.to_be_bytes();
    [2, 0, 0, 0, high, low]
}

const fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 127, last)
}

/// A client's message, byte by byte after RFC 2131 figure 1.
#[derive(Clone)]
struct Client {
    mac: [u8; 6],
    kind: u8,
    flags: u16,
    ciaddr: Ipv4Addr,
    giaddr: Ipv4Addr,
    options: Vec<u8>,
}

fn client(mac: [u8; 6], kind: u8) -> Client {
    let none = Ipv4Addr::UNSPECIFIED;
    Client { mac, kind, flags: 0, ciaddr: none, giaddr: none, options: Vec::new() }
}

impl Client {
    fn option(mut self, code: u8, data: &[u8]) -> Self {
        self.options.extend([code, u8::try_from(data.len()).expect("short")]);
        self.options.extend(data);
        self
    }

    fn wants(self, address: Ipv4Addr) -> Self {
        self.option(50, &address.octets())
    }

    fn of(self, server: Ipv4Addr) -> Self {
        self.option(54, &server.octets())
    }

    fn has(mut self, address: Ipv4Addr) -> Self {
        self.ciaddr = address;
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![1, 1, 6, 0, 0xca, 0xfe, 0xba, 0xbe, 0, 7];
        bytes.extend(self.flags.to_be_bytes());
        bytes.extend(self.ciaddr.octets());
        bytes.extend([0; 8]);
        bytes.extend(self.giaddr.octets());
        bytes.extend(self.mac);
        bytes.resize(236, 0);
        bytes.extend([99, 130, 83, 99, 53, 1, self.kind]);
        bytes.extend(&self.options);
        bytes.push(255);
        bytes
    }
}

const DISCOVER: u8 = 1;
const REQUEST: u8 = 3;
const DECLINE: u8 = 4;
const RELEASE: u8 = 7;
const INFORM: u8 = 8;

struct Bench {
    dhcp: Dhcp,
    now: Instant,
    tenant: Option<u32>,
    /// Holder and link.
    link: Option<(u64, u64)>,
    pinned: Option<Ipv4Addr>,
    /// What live links have.
    taken: BTreeSet<Ipv4Addr>,
}

impl Bench {
    fn new() -> Self {
        Self::of(config())
    }

    fn of(config: DhcpConfig) -> Self {
        let dhcp = Dhcp::new(config).expect("a config");
        Self { dhcp, now: Instant::ZERO, tenant: None, link: None, pinned: None, taken: BTreeSet::new() }
    }

    fn send(&mut self, client: &Client) -> Result<Option<(DhcpReply, Message)>, DhcpDrop> {
        // Everybody is a machine of its own, unless told otherwise.
        let tenant = self.tenant.unwrap_or_else(|| u32::from_be_bytes(*client.mac.last_chunk().expect("six bytes")));
        let taken = &self.taken;
        let who = super::Client {
            tenant,
            holder: self.link.map_or(0, |(holder, _)| holder),
            link: self.link.map_or_else(|| tenant.into(), |(_, link)| link),
            pinned: self.pinned,
            may_have: &|address| !taken.contains(&address),
        };
        let reply = self.dhcp.handle(self.now, &who, &client.bytes());
        self.dhcp.pool.check(ADDRESSES - self.dhcp.config.pinned.len());
        let reply = reply?;
        Ok(reply.map(|reply| {
            let message = Message::from_bytes(&reply.payload).expect("replies parse");
            assert_eq!(message.xid(), 0xcafe_babe);
            assert_eq!(message.chaddr(), client.mac);
            assert_eq!(message.yiaddr(), reply.yiaddr);
            (reply, message)
        }))
    }

    fn kind_of(&mut self, client: &Client) -> Option<(MessageType, Ipv4Addr)> {
        let reply = self.send(client).expect("no drop");
        reply.map(|(reply, message)| (message.opts().msg_type().expect("a kind"), reply.yiaddr))
    }

    fn lease(&mut self, mac: [u8; 6]) -> Ipv4Addr {
        let (kind, address) = self.kind_of(&client(mac, DISCOVER)).expect("an offer");
        assert_eq!(kind, MessageType::Offer);
        let ack = self.kind_of(&client(mac, REQUEST).wants(address).of(GATEWAY));
        assert_eq!(ack, Some((MessageType::Ack, address)));
        address
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
    }
}

const NAK: Option<(MessageType, Ipv4Addr)> = Some((MessageType::Nak, Ipv4Addr::UNSPECIFIED));

#[test]
fn an_offer_tells_what_gvproxy_tells() {
    let mut bench = Bench::new();
    let (reply, message) = bench.send(&client(mac(1), DISCOVER)).expect("no drop").expect("an offer");
    assert_eq!((reply.to, reply.mac, reply.broadcast), (ip(3), mac(1), false));
    assert_eq!(reply.payload.len(), 300);
    let options: Vec<_> = message.opts().iter().map(|(_, option)| option.clone()).collect();
    assert_eq!(
        options,
        [
            DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)),
            DhcpOption::Router(vec![GATEWAY]),
            DhcpOption::DomainNameServer(vec![GATEWAY]),
            DhcpOption::InterfaceMtu(1500),
            DhcpOption::AddressLeaseTime(3600),
            DhcpOption::MessageType(MessageType::Offer),
            DhcpOption::ServerIdentifier(GATEWAY),
        ]
    );
}

#[test]
fn only_a_client_that_says_so_is_answered_by_broadcast() {
    let mut bench = Bench::new();
    let mut discover = client(mac(1), DISCOVER);
    discover.flags = 0x8000;
    let (reply, _) = bench.send(&discover).expect("no drop").expect("an offer");
    assert_eq!((reply.to, reply.broadcast), (Ipv4Addr::BROADCAST, true));
    // One that renews has an address, whatever its flag says.
    let mut renew = client(mac(1), REQUEST).has(ip(3));
    renew.flags = 0x8000;
    let (reply, message) = bench.send(&renew).expect("no drop").expect("an ack");
    assert_eq!((reply.to, reply.broadcast, message.ciaddr()), (ip(3), false, ip(3)));
}

#[test]
fn clients_get_one_address_each_and_keep_it() {
    let mut bench = Bench::new();
    assert_eq!([mac(1), mac(2), FIXED_MAC, mac(1)].map(|mac| bench.lease(mac)), [ip(3), ip(4), FIXED, ip(3)]);
    assert_eq!(
        bench.dhcp.leases(bench.now),
        BTreeMap::from([(GATEWAY, config().gateway_mac), (FIXED, FIXED_MAC), (ip(3), mac(1)), (ip(4), mac(2))])
    );
    bench.pass(LEASE);
    assert_eq!(bench.dhcp.leases(bench.now).len(), 2, "leases end");
    assert_eq!(bench.lease(mac(2)), ip(4), "but are remembered");
}

#[test]
fn a_free_address_that_a_client_wants_it_gets() {
    let mut bench = Bench::new();
    assert_eq!(bench.kind_of(&client(mac(1), DISCOVER).wants(ip(77))), Some((MessageType::Offer, ip(77))));
    for taken in [ip(77), GATEWAY, HOST, FIXED, ip(0), ip(255), Ipv4Addr::new(10, 0, 0, 1)] {
        let mut bench = Bench::new();
        bench.lease(mac(1));
        bench.kind_of(&client(mac(2), DISCOVER).wants(ip(77)));
        let offer = bench.kind_of(&client(mac(3), DISCOVER).wants(taken));
        assert_eq!(offer, Some((MessageType::Offer, ip(4))), "{taken}");
    }
}

#[test]
fn after_a_restart_clients_keep_what_nobody_else_has() {
    let mut bench = Bench::new();
    // INIT-REBOOT and RENEWING of clients that the server does not know.
    assert_eq!(bench.kind_of(&client(mac(1), REQUEST).wants(ip(9))), Some((MessageType::Ack, ip(9))));
    assert_eq!(bench.kind_of(&client(mac(2), REQUEST).has(ip(8))), Some((MessageType::Ack, ip(8))));
    for address in [ip(9), GATEWAY, HOST, FIXED, ip(0), ip(255), Ipv4Addr::new(10, 0, 0, 9)] {
        assert_eq!(bench.kind_of(&client(mac(3), REQUEST).wants(address)), NAK, "{address}");
        assert_eq!(bench.kind_of(&client(mac(3), REQUEST).has(address)), NAK, "{address}");
    }
    assert_eq!(bench.kind_of(&client(FIXED_MAC, REQUEST).wants(ip(10))), NAK, "it has a static lease");
    let (reply, _) = bench.send(&client(mac(3), REQUEST).wants(ip(9))).expect("no drop").expect("a nak");
    assert!(reply.broadcast);
}

#[test]
fn one_that_moves_gives_its_old_address_back() {
    let mut bench = Bench::new();
    assert_eq!(bench.lease(mac(1)), ip(3));
    assert_eq!(bench.kind_of(&client(mac(1), REQUEST).wants(ip(9))), Some((MessageType::Ack, ip(9))));
    assert_eq!(bench.lease(mac(2)), ip(3));
}

#[test]
fn a_request_to_another_server_is_met_with_silence_and_frees_the_offer() {
    let mut bench = Bench::new();
    bench.kind_of(&client(mac(1), DISCOVER));
    assert_eq!(bench.kind_of(&client(mac(1), REQUEST).wants(ip(3)).of(ip(200))), None);
    assert_eq!(bench.lease(mac(2)), ip(3));
    assert_eq!(bench.kind_of(&client(mac(2), REQUEST).wants(ip(9)).of(ip(200))), None);
    assert_eq!(bench.dhcp.leases(bench.now).get(&ip(3)), Some(&mac(2)), "a lease stays");
}

#[test]
fn a_released_address_is_free_and_only_its_owner_releases_it() {
    let mut bench = Bench::new();
    bench.lease(mac(1));
    assert_eq!(bench.kind_of(&client(mac(2), RELEASE).has(ip(3)).of(GATEWAY)), None);
    assert_eq!(bench.dhcp.leases(bench.now).get(&ip(3)), Some(&mac(1)));
    assert_eq!(bench.kind_of(&client(mac(1), RELEASE).has(ip(3)).of(GATEWAY)), None);
    assert_eq!(bench.dhcp.leases(bench.now).get(&ip(3)), None);
    assert_eq!(bench.kind_of(&client(mac(2), REQUEST).wants(ip(3))), Some((MessageType::Ack, ip(3))));
    assert_eq!(bench.dhcp.counters().releases, 1);
}

#[test]
fn a_declined_address_is_left_alone_for_a_while() {
    let mut bench = Bench::new();
    bench.lease(mac(1));
    assert_eq!(bench.kind_of(&client(mac(2), DECLINE).wants(ip(3)).of(GATEWAY)), None);
    assert_eq!(bench.dhcp.counters().declines, 0, "it is not its address");
    assert_eq!(bench.kind_of(&client(mac(1), DECLINE).wants(ip(3)).of(GATEWAY)), None);
    assert_eq!(bench.lease(mac(1)), ip(4));
    assert_eq!(bench.kind_of(&client(mac(2), REQUEST).wants(ip(3))), NAK);
    bench.pass(DECLINE_HOLD);
    assert_eq!(bench.kind_of(&client(mac(2), REQUEST).wants(ip(3))), Some((MessageType::Ack, ip(3))));
}

#[test]
fn an_inform_is_answered_without_an_address() {
    let mut bench = Bench::new();
    let (reply, message) = bench.send(&client(mac(1), INFORM).has(ip(50))).expect("no drop").expect("an ack");
    assert_eq!((reply.yiaddr, reply.to, reply.broadcast), (Ipv4Addr::UNSPECIFIED, ip(50), false));
    assert_eq!(message.opts().msg_type(), Some(MessageType::Ack));
    assert_eq!(message.opts().get(OptionCode::AddressLeaseTime), None);
    assert!(message.opts().get(OptionCode::Router).is_some());
    assert_eq!(bench.send(&client(mac(1), INFORM)).err(), Some(DhcpDrop::Malformed));
    assert_eq!(bench.send(&client(mac(1), INFORM).has(Ipv4Addr::LOCALHOST)).err(), Some(DhcpDrop::Malformed));
}

#[test]
fn a_flood_of_clients_takes_what_is_free_and_nothing_else() {
    let mut bench = Bench::new();
    let first = bench.lease(mac(0));
    let mut offered = 0;
    for n in 1..1000 {
        match bench.send(&client(mac(n), DISCOVER)) {
            Ok(reply) => offered += usize::from(reply.is_some()),
            Err(drop) => assert_eq!(drop, DhcpDrop::Exhausted),
        }
    }
    assert_eq!(offered, ADDRESSES - 1);
    assert_eq!(bench.dhcp.counters().dropped_exhausted, 999 - 250);
    assert_eq!(bench.dhcp.leases(bench.now).get(&first), Some(&mac(0)));
    bench.pass(OFFER_HOLD);
    for n in 2000..2250 {
        bench.lease(mac(n));
    }
    assert_eq!(bench.send(&client(mac(3000), DISCOVER)).err(), Some(DhcpDrop::Exhausted));
    assert_eq!(bench.dhcp.leases(bench.now).get(&first), Some(&mac(0)));
}

#[test]
fn the_longest_unused_address_is_the_first_to_be_given_to_somebody_else() {
    let mut bench = Bench::new();
    for n in 0..251 {
        bench.lease(mac(n));
    }
    bench.pass(Duration::from_secs(10));
    assert_eq!(bench.lease(mac(0)), ip(3), "renewed");
    bench.pass(LEASE - Duration::from_secs(5));
    assert_eq!(bench.lease(mac(900)), ip(4), "that of client 1, which did not renew");
}

#[test]
fn a_long_search_list_is_cut_where_it_fits() {
    let domain = |n: usize| format!("label-{n:03}.example.com");
    let search = (0..100).map(domain).collect();
    let mut bench = Bench::of(DhcpConfig { search, ..config() });
    let told = |bench: &mut Bench, client: Client| {
        let (reply, message) = bench.send(&client).expect("no drop").expect("an offer");
        let Some(DhcpOption::DomainSearch(names)) = message.opts().get(OptionCode::DomainSearch) else {
            panic!("no search list in {message:?}")
        };
        for (n, name) in names.iter().enumerate() {
            assert_eq!(name.to_ascii().trim_end_matches('.'), domain(n));
        }
        (reply.payload.len(), names.len())
    };
    // 23 bytes each without compression, 255 in one option.
    let (len, names) = told(&mut bench, client(mac(1), DISCOVER));
    assert_eq!(names, 11);
    assert!(len <= 548, "{len}");
    let (large, names) = told(&mut bench, client(mac(1), DISCOVER).option(57, &1500u16.to_be_bytes()));
    assert_eq!((large, names), (len, 11));
}

#[test]
fn an_empty_or_senseless_search_list_is_not_told() {
    for search in [vec![], vec![".".to_owned()], vec!["a".repeat(64)], vec!["a.".repeat(200)]] {
        let mut bench = Bench::of(DhcpConfig { search, ..config() });
        let (_, message) = bench.send(&client(mac(1), DISCOVER)).expect("no drop").expect("an offer");
        assert_eq!(message.opts().get(OptionCode::DomainSearch), None);
    }
}

#[test]
fn what_is_no_request_of_an_ethernet_client_is_dropped_and_counted() {
    let mut bench = Bench::new();
    let good = client(mac(1), DISCOVER).bytes();
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let mut relayed = client(mac(1), DISCOVER);
    relayed.giaddr = ip(9);
    for (bytes, drop) in [
        (vec![], DhcpDrop::Malformed),
        (good[..239].to_vec(), DhcpDrop::Malformed),
        (with(0, 2), DhcpDrop::Malformed),
        (with(236, 0), DhcpDrop::Malformed),
        (with(1, 6), DhcpDrop::Hardware),
        (with(2, 255), DhcpDrop::Hardware),
        (with(28, 3), DhcpDrop::Hardware),
        (client([0; 6], DISCOVER).bytes(), DhcpDrop::Hardware),
        (relayed.bytes(), DhcpDrop::Relayed),
        (client(mac(1), 2).bytes(), DhcpDrop::Kind),
        (client(mac(1), 99).bytes(), DhcpDrop::Kind),
        (good[..240].to_vec(), DhcpDrop::Malformed),
        (client(mac(1), REQUEST).bytes(), DhcpDrop::Malformed),
        (client(mac(1), REQUEST).option(50, &[1, 2, 3]).bytes(), DhcpDrop::Malformed),
    ] {
        let who = super::Client { tenant: 1, holder: 0, link: 1, pinned: None, may_have: &|_| true };
        assert_eq!(bench.dhcp.handle(bench.now, &who, &bytes), Err(drop), "{bytes:?}");
    }
    let counters = bench.dhcp.counters();
    assert_eq!((counters.dropped_malformed, counters.dropped_hardware), (7, 4));
    assert_eq!((counters.dropped_relayed, counters.dropped_kind), (1, 2));
}

#[test]
fn a_configuration_without_sense_is_refused() {
    let subnet = |text: &str| text.parse().expect("a subnet");
    let error = |config: DhcpConfig| Dhcp::new(config).map(|_| ()).expect_err("refused");
    let base = config;
    assert!(matches!(error(DhcpConfig { subnet: subnet("192.168.127.0/30"), ..base() }), DhcpConfigError::Subnet(_)));
    assert!(matches!(error(DhcpConfig { subnet: subnet("10.0.0.0/8"), ..base() }), DhcpConfigError::Outside { .. }));
    assert!(matches!(error(DhcpConfig { gateway: ip(255), ..base() }), DhcpConfigError::Outside { .. }));
    assert!(matches!(error(DhcpConfig { host: GATEWAY, ..base() }), DhcpConfigError::Twice(_)));
    let clash = BTreeMap::from([(GATEWAY, mac(1))]);
    assert!(matches!(error(DhcpConfig { static_leases: clash, ..base() }), DhcpConfigError::Twice(GATEWAY)));
    assert!(matches!(error(DhcpConfig { mtu: 575, ..base() }), DhcpConfigError::Mtu(575)));
    assert!(matches!(error(DhcpConfig { dns: vec![GATEWAY; 9], ..base() }), DhcpConfigError::NameServers(9)));
}

#[test]
fn a_large_subnet_is_used_in_part() {
    let large = DhcpConfig { subnet: "192.0.0.0/8".parse().expect("a subnet"), ..config() };
    Dhcp::new(large).expect("a config").pool.check(LEASES_MAX);
}

/// In every state of a client (RFC 2131 section 4.3.2), and for the address that is set aside for it.
#[test]
fn what_a_live_link_has_is_leased_to_nobody() {
    let mut bench = Bench::new();
    for (mac, address) in [(mac(1), ip(77)), (FIXED_MAC, FIXED)] {
        bench.taken = BTreeSet::from([address, ip(3)]);
        for request in [
            client(mac, REQUEST).wants(address),
            client(mac, REQUEST).wants(address).of(GATEWAY),
            client(mac, REQUEST).has(address),
            client(mac, REQUEST).has(address).of(GATEWAY),
        ] {
            assert_eq!(bench.kind_of(&request), NAK);
        }
        let offer = bench.kind_of(&client(mac, DISCOVER).wants(address));
        assert!(matches!(offer, Some((MessageType::Offer, other)) if other != address && other != ip(3)), "{offer:?}");
        // What it was not given it can neither give back nor find fault with.
        bench.kind_of(&client(mac, DECLINE).wants(address).of(GATEWAY));
        bench.kind_of(&client(mac, RELEASE).has(address).of(GATEWAY));
        bench.taken.clear();
        assert_eq!(bench.kind_of(&client(mac, REQUEST).wants(address)), Some((MessageType::Ack, address)));
    }
    assert_eq!((bench.dhcp.counters().declines, bench.dhcp.counters().releases), (0, 0));
}

#[test]
fn a_lease_whose_address_somebody_uses_is_exchanged_for_another() {
    let mut bench = Bench::new();
    assert_eq!(bench.lease(mac(1)), ip(3));
    bench.taken.insert(ip(3));
    assert_eq!(bench.kind_of(&client(mac(1), REQUEST).has(ip(3))), NAK);
    assert_eq!(bench.lease(mac(1)), ip(4));
}

#[test]
fn a_pinned_address_is_for_its_owner_whatever_it_asks_for() {
    let mut bench = Bench::of(DhcpConfig { pinned: BTreeSet::from([ip(50)]), ..config() });
    assert_eq!(bench.kind_of(&client(mac(1), REQUEST).wants(ip(50))), NAK);
    assert_ne!(bench.kind_of(&client(mac(1), DISCOVER).wants(ip(50))), Some((MessageType::Offer, ip(50))));
    bench.pinned = Some(ip(50));
    assert_eq!(bench.kind_of(&client(mac(2), REQUEST).wants(ip(60))), NAK);
    assert_eq!(bench.kind_of(&client(mac(2), DISCOVER).wants(ip(60))), Some((MessageType::Offer, ip(50))));
    assert_eq!(bench.dhcp.leases(bench.now).get(&ip(50)), None);
    assert_eq!(bench.kind_of(&client(mac(2), REQUEST).wants(ip(50))), Some((MessageType::Ack, ip(50))));
    assert_eq!(bench.dhcp.leases(bench.now).get(&ip(50)), Some(&mac(2)));
    assert_eq!(bench.kind_of(&client(mac(2), DECLINE).wants(ip(50)).of(GATEWAY)), None);
    assert_eq!(bench.lease(mac(2)), ip(50), "it stays its owner's");
    bench.pass(LEASE);
    assert_eq!(bench.dhcp.leases(bench.now).get(&ip(50)), None);
}

/// By offers, leases and declined addresses; on one link, and on one after the other.
#[test]
fn whatever_one_tenant_does_another_one_gets_an_address() {
    for tenant in [1, 0x8000_0000_u32] {
        for games in [&[DISCOVER][..], &[DISCOVER, REQUEST], &[DISCOVER, REQUEST, DECLINE], &[REQUEST]] {
            for seconds in [0, 60] {
                let mut bench = Bench::new();
                let mut got = BTreeSet::new();
                for link in 0..40_u64 {
                    bench.tenant = Some(tenant);
                    bench.link = Some((if tenant == 1 { 0 } else { link }, link));
                    for n in 0..64_u16 {
                        let mac = mac(link as u16 * 64 + n);
                        let mut address = ip(3 + ((link * 64 + u64::from(n)) % 251) as u8);
                        for kind in games {
                            let message = client(mac, *kind).wants(address).of(GATEWAY);
                            if let Ok(Some((reply, _))) = bench.send(&message)
                                && !reply.refused
                            {
                                address = reply.yiaddr;
                                got.insert(address);
                            }
                        }
                    }
                    let held = bench.dhcp.pool.held();
                    assert!(held <= if tenant == 1 { 62 } else { 189 }, "{held} are held");
                    bench.dhcp.detach(link);
                    bench.pass(Duration::from_secs(seconds));
                }
                assert!(got.len() >= 62);
                (bench.tenant, bench.link) = (Some(7), None);
                bench.lease(mac(9999));
            }
        }
    }
}

#[test]
fn when_few_are_left_they_are_for_those_who_have_none() {
    let mut bench = Bench::new();
    for tenant in 0..3 {
        bench.tenant = Some(tenant);
        for n in 0..62 {
            bench.lease(mac(tenant as u16 * 100 + n));
        }
        assert_eq!(bench.send(&client(mac(999), DISCOVER)).err(), Some(DhcpDrop::Share));
    }
    for tenant in 3..60 {
        bench.tenant = Some(tenant);
        bench.lease(mac(1000 + tenant as u16));
    }
    bench.tenant = Some(59);
    assert_eq!(bench.send(&client(mac(2000), DISCOVER)).err(), Some(DhcpDrop::Share));
    assert!(bench.dhcp.counters().dropped_share >= 4);
}

#[test]
fn the_leases_of_a_link_that_is_gone_end_soon_unless_their_clients_come_back() {
    for back in [false, true] {
        let mut bench = Bench::new();
        (bench.tenant, bench.link) = (Some(1), Some((0, 1)));
        assert_eq!((bench.lease(mac(1)), bench.lease(mac(2))), (ip(3), ip(4)));
        bench.dhcp.detach(1);
        (bench.tenant, bench.link) = (Some(2), Some((0, 2)));
        assert_eq!(bench.lease(mac(9)), ip(5));
        bench.pass(KEEP - Duration::from_secs(1));
        assert_eq!(bench.kind_of(&client(mac(9), REQUEST).wants(ip(3))), NAK);
        if back {
            let who = super::Client { tenant: 1, holder: 0, link: 8, pinned: None, may_have: &|_| true };
            bench.dhcp.moved(bench.now, &who, mac(1), ip(3));
            // Not its own, and not its tenant's.
            bench.dhcp.moved(bench.now, &who, mac(7), ip(4));
            bench.dhcp.moved(bench.now, &super::Client { tenant: 2, ..who }, mac(2), ip(4));
        }
        bench.pass(Duration::from_secs(1));
        let leases = bench.dhcp.leases(bench.now);
        assert_eq!((leases.get(&ip(3)), leases.get(&ip(4))), (Some(&mac(1)).filter(|_| back), None));
        // Its address is the first that a client gets who comes back late.
        (bench.tenant, bench.link) = (Some(1), Some((0, 8)));
        assert_eq!(bench.lease(mac(2)), ip(4));
    }
}

/// Whatever few clients do in whatever order, no two of them hold one address.
#[test]
fn no_two_clients_hold_one_address() {
    fn law(script: Vec<(u8, u8, u8, u16)>) {
        let mut bench = Bench::new();
        let mut held: BTreeMap<Ipv4Addr, ([u8; 6], Instant)> = BTreeMap::new();
        for (who, kind, last, seconds) in script {
            bench.pass(Duration::from_secs(u64::from(seconds % 1000)));
            let (mac, address) = (mac(u16::from(who % 4)), ip(last % 8));
            let message = client(mac, [DISCOVER, REQUEST, DECLINE, RELEASE][usize::from(kind % 4)]).wants(address);
            let message = if kind % 4 == 3 { message.has(address) } else { message };
            if let Some((MessageType::Ack, address)) = bench.kind_of(&message) {
                if let Some((owner, until)) = held.get(&address) {
                    assert!(*owner == mac || *until <= bench.now, "{address} is held");
                }
                held.retain(|_, (owner, _)| *owner != mac);
                held.insert(address, (mac, bench.now + LEASE));
            } else if kind % 4 > 1 && held.get(&address).is_some_and(|(owner, _)| *owner == mac) {
                held.remove(&address);
            }
        }
    }
    QuickCheck::new().tests(500).quickcheck(law as fn(Vec<(u8, u8, u8, u16)>));
}
