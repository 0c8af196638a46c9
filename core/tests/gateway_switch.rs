//! What passes between the enclaves of one gateway, and what does not.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use nitrotap_core::{
    frame::Framing,
    gateway::{Config, Gateway, Handled, PortId},
    time::Instant,
};

const GATEWAY_MAC: [u8; 6] = [0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xdd];
const GATEWAY: [u8; 4] = [192, 168, 127, 1];
const HOST: [u8; 4] = [192, 168, 127, 254];
const EVERYBODY: [u8; 6] = [0xff; 6];
const A: ([u8; 6], [u8; 4]) = ([2, 0, 0, 0, 0, 1], [192, 168, 127, 2]);
const B: ([u8; 6], [u8; 4]) = ([2, 0, 0, 0, 0, 2], [192, 168, 127, 3]);

/// Two enclaves that the gateway has heard of.
struct World {
    gateway: Gateway,
    a: PortId,
    b: PortId,
}

impl World {
    fn new() -> Self {
        let mut gateway = Gateway::new(Config::default()).unwrap();
        let [a, b] = [1, 2].map(|tenant| gateway.attach(tenant, Some(Framing::Hyperkit)).unwrap());
        let mut world = Self { gateway, a, b };
        world.send(a, &arp(EVERYBODY, A.0, 1, A, GATEWAY));
        world.send(b, &arp(EVERYBODY, B.0, 1, B, GATEWAY));
        world.received(world.a);
        world.received(world.b);
        world
    }

    fn send(&mut self, from: PortId, frame: &[u8]) {
        assert_eq!(self.gateway.handle_frame(Instant::from_millis(1), from, frame), Handled::Done);
    }

    /// The frames that wait for a link.
    fn received(&mut self, port: PortId) -> Vec<Vec<u8>> {
        let mut bytes = self.gateway.pending(port).to_vec();
        self.gateway.consume(port, bytes.len());
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            let len = usize::from(u16::from_le_bytes([bytes[0], bytes[1]]));
            frames.push(bytes[2..2 + len].to_vec());
            bytes.drain(..2 + len);
        }
        frames
    }
}

/// An ARP packet (RFC 826) in a frame.
fn arp(to: [u8; 6], from: [u8; 6], operation: u8, sender: ([u8; 6], [u8; 4]), target: [u8; 4]) -> Vec<u8> {
    let head = [8, 6, 0, 1, 8, 0, 6, 4, 0, operation];
    [&to[..], &from, &head, &sender.0, &sender.1, &[0; 6], &target].concat()
}

/// An IPv4 header and nothing behind it.
fn ipv4(to: [u8; 6], from: [u8; 6], source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
    let head = [8, 0, 0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0];
    [&to[..], &from, &head, &source, &destination].concat()
}

#[test]
fn enclaves_find_and_reach_each_other() {
    let mut world = World::new();
    for frame in [arp(EVERYBODY, A.0, 1, A, B.1), arp(B.0, A.0, 2, A, B.1), ipv4(B.0, A.0, A.1, B.1)] {
        world.send(world.a, &frame);
        assert_eq!(world.received(world.b), [frame]);
        assert_eq!(world.received(world.a), Vec::<Vec<u8>>::new());
    }
    // A probe for an address has none yet (RFC 5227).
    let probe = arp(EVERYBODY, A.0, 1, (A.0, [0; 4]), [192, 168, 127, 9]);
    world.send(world.a, &probe);
    assert_eq!(world.received(world.b), [probe]);
}

#[test]
fn nobody_is_told_that_the_gateway_or_another_enclave_is_elsewhere() {
    for to in [EVERYBODY, A.0, [1, 0, 0x5e, 0, 0, 1]] {
        let lies = [
            arp(to, B.0, 2, (B.0, GATEWAY), A.1),
            arp(to, B.0, 1, (B.0, HOST), A.1),
            arp(to, B.0, 2, (B.0, A.1), A.1),
            arp(to, B.0, 2, (B.0, [10, 0, 0, 1]), A.1),
            // For somebody else, as somebody else, and cut short.
            arp(to, B.0, 2, (GATEWAY_MAC, B.1), A.1),
            arp(to, A.0, 2, A, A.1),
            arp(to, GATEWAY_MAC, 2, (GATEWAY_MAC, GATEWAY), A.1),
            arp(to, B.0, 2, B, A.1)[..30].to_vec(),
            ipv4(to, B.0, GATEWAY, A.1),
            ipv4(to, B.0, A.1, A.1),
            ipv4(to, B.0, [8, 8, 8, 8], A.1),
            ipv4(to, B.0, B.1, A.1)[..20].to_vec(),
        ];
        for lie in lies {
            let mut world = World::new();
            let before = world.gateway.counters();
            world.send(world.b, &lie);
            assert_eq!(world.received(world.a), Vec::<Vec<u8>>::new(), "{lie:x?}");
            let after = world.gateway.counters();
            assert!(after.spoofed + after.malformed > before.spoofed + before.malformed, "{lie:x?}");
        }
    }
}

/// An error quotes what it is about (RFC 792): of two that talk, a third one can say nothing.
#[test]
fn an_enclave_tells_another_of_errors_about_what_was_sent_to_itself_only() {
    const C: ([u8; 6], [u8; 4]) = ([2, 0, 0, 0, 0, 3], [192, 168, 127, 4]);
    let mut world = World::new();
    let c = world.gateway.attach(3, Some(Framing::Hyperkit)).unwrap();
    world.send(c, &arp(EVERYBODY, C.0, 1, C, GATEWAY));
    world.received(world.b);
    // `fragment`: flags and offset of the packet.
    let message = |kind: u8, quoted: &[u8], fragment: [u8; 2]| {
        let mut frame = ipv4(B.0, A.0, A.1, B.1);
        frame.extend([kind, 4, 0, 0, 0, 0, 2, 0]);
        frame.extend(quoted);
        frame[17] = frame.len() as u8 - 14;
        frame[20..22].copy_from_slice(&fragment);
        frame[23] = 1;
        frame
    };
    let about = |destination: [u8; 4]| {
        let mut quoted = ipv4(B.0, A.0, B.1, destination)[14..].to_vec();
        quoted.extend([0, 1, 0, 2, 0, 8, 0, 0]);
        quoted
    };
    for kind in [3, 4, 5, 11, 12] {
        for fragment in [[0, 0], [0x40, 0], [0x20, 0]] {
            let honest = message(kind, &about(A.1), fragment);
            world.send(world.a, &honest);
            assert_eq!(world.received(world.b), [honest]);
            let before = world.gateway.counters().spoofed;
            for destination in [C.1, [8, 8, 8, 8], GATEWAY, B.1] {
                world.send(world.a, &message(kind, &about(destination), fragment));
            }
            // Too short to tell, no packet of IPv4, and nothing.
            for quoted in [&about(A.1)[..19], &[&[0x65][..], &about(A.1)[1..]].concat(), &[]] {
                world.send(world.a, &message(kind, quoted, fragment));
            }
            assert_eq!(world.received(world.b), Vec::<Vec<u8>>::new(), "{kind}");
            assert_eq!(world.gateway.counters().spoofed, before + 7);
        }
        // Behind the first piece there is anything.
        let piece = message(kind, &about(C.1), [0, 9]);
        world.send(world.a, &piece);
        assert_eq!(world.received(world.b), [piece]);
    }
    for kind in [0, 8] {
        let echo = message(kind, &about(C.1), [0, 0]);
        world.send(world.a, &echo);
        assert_eq!(world.received(world.b), [echo]);
    }
}
