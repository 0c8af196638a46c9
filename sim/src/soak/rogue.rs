//! Other enclaves on the same host that mean no good: their links send whatever comes to mind, as whoever they like, and
//! stop reading, or have a TCP of their own making. Nobody else may notice.

mod tcp;

use super::{
    plan::Load,
    run::{Book, Rules},
};
use crate::{
    gvproxy::{CONNECT_PORT, ENCLAVE, GATEWAY, GATEWAY_MAC},
    rng,
    stream::SimStream,
    world::ClientSide,
};
use nitrotap_core::time::Instant;
use std::{io, time::Duration};

const CONNECT: &[u8] = b"POST /connect HTTP/1.1\r\nHost: \r\nContent-Length: 0\r\n\r\n";

/// Longest time that a link goes without reading.
const DEAF: Duration = Duration::from_secs(15);

/// The enclave's hardware address, which they would like to have.
const VICTIM: [u8; 6] = [0xba, 0xaa, 0xad, 0xc0, 0xff, 0xee];

/// Comes and goes until it is time to stop.
pub(super) async fn run(side: &ClientSide, load: Load, client: u32, rules: &Rules, book: &Book) {
    let clock = side.clock();
    let mut rng = rng::stream(side.seed() ^ clock.now().as_nanos(), &format!("rogue {} {client}", load.id));
    clock.sleep_until(Instant::from_millis(load.start_ms)).await;
    loop {
        clock.sleep(Duration::from_millis(rng.u64(1..=load.think_ms.max(1)))).await;
        if clock.now() + DEAF * 2 >= rules.stop {
            return;
        }
        let misbehave = async {
            let stream = side.connect_host(CONNECT_PORT).await?;
            stream.send_all(CONNECT).await?;
            book.fired("rogue-link");
            let own = [2, 0, 0, 0, 1, rng.u8(..)];
            if rng.bool() {
                book.fired("rogue-tcp");
                tcp::visit(side, &stream, &mut rng, own).await?;
            } else {
                visit(side, &stream, &mut rng, own).await?;
            }
            // Some go in peace, the others with what they have not read.
            if rng.bool() {
                stream.finish();
            }
            io::Result::Ok(())
        };
        // A host that has gone is not what is looked at here.
        let _: Result<(), ()> = tokio::select! {
            biased;
            done = misbehave => done.map_err(drop),
            () = clock.sleep(DEAF * 2) => Ok(()),
        };
    }
}

async fn visit(side: &ClientSide, stream: &SimStream, rng: &mut fastrand::Rng, own: [u8; 6]) -> io::Result<()> {
    let clock = side.clock();
    let mut buf = vec![0; 16_384];
    for _ in 0..rng.u32(1..6) {
        let mut bytes = Vec::new();
        for _ in 0..rng.usize(1..60) {
            let frame = frame(rng, own);
            bytes.extend((frame.len() as u16).to_le_bytes());
            bytes.extend(frame);
        }
        // A stream that takes no more is a host that has had enough; there is no harm in that.
        tokio::select! {
            biased;
            sent = stream.send_all(&bytes) => sent?,
            () = clock.sleep(Duration::from_secs(1)) => return Ok(()),
        }
        let until = Duration::from_millis(rng.u64(1..DEAF.as_millis() as u64 / 6));
        if rng.bool() {
            clock.sleep(until).await;
        } else {
            tokio::select! {
                biased;
                () = clock.sleep(until) => {}
                ended = async { while stream.recv(&mut buf).await? > 0 {} io::Result::Ok(()) } => return ended,
            }
        }
    }
    Ok(())
}

/// Anything between noise and a decent SYN.
fn frame(rng: &mut fastrand::Rng, own: [u8; 6]) -> Vec<u8> {
    let source = match rng.u8(0..6) {
        0 => VICTIM,
        1 => GATEWAY_MAC.0,
        2 => [rng.u8(..), rng.u8(..), 3, 4, 5, 6],
        _ => own,
    };
    let destination = match rng.u8(0..5) {
        0 => [0xff; 6],
        1 => VICTIM,
        2 => [1, 0, 0x5e, 0, 0, rng.u8(..)],
        _ => GATEWAY_MAC.0,
    };
    let mut frame = [destination, source].concat();
    let address = pick(rng, &[[192, 168, 127, 77], ENCLAVE.octets(), GATEWAY.octets(), [10, 9, 8, 7]]);
    match rng.u8(0..6) {
        // An ARP packet (RFC 826), a question or an answer that nobody asked for.
        0 => {
            frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, rng.u8(1..3)]);
            frame.extend(source);
            frame.extend(address);
            frame.extend([0; 6]);
            frame.extend(if rng.bool() { GATEWAY.octets() } else { ENCLAVE.octets() });
        }
        // A segment out into the world, to the host's loopback, to the gateway, or to nobody.
        1..4 => {
            frame.extend([8, 0]);
            let to = [[203, 0, 113, 10], [192, 168, 127, 254], GATEWAY.octets(), [198, 51, 100, 9]];
            let to = pick(rng, &to);
            frame.extend(segment(rng, address, to));
        }
        // Noise that says it is IPv4.
        4 => {
            frame.extend([8, 0, 0x45]);
            frame.extend((0..rng.usize(0..600)).map(|_| rng.u8(..)));
        }
        _ => {
            let len = pick(rng, &[0, 5, 60, 1486, 9000]);
            frame.extend((0..len).map(|_| rng.u8(..)));
            frame.truncate(rng.usize(0..=frame.len()));
        }
    }
    frame
}

/// A TCP segment, a UDP datagram or a ping, checksums left to chance: gvproxy's stack looks at none but ICMP's.
fn segment(rng: &mut fastrand::Rng, from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
    let protocol = pick(rng, &[6, 6, 6, 17, 1]);
    let payload = rng.usize(0..100);
    let total = 20 + 20 + payload;
    let mut packet = vec![0x45, 0, (total >> 8) as u8, total as u8, 0, 0, 0, 0, 64, protocol, 0, 0];
    packet.extend(from);
    packet.extend(to);
    let ports: [u16; 2] = [rng.u16(1..=400), pick(rng, &[7, 9, 53, 80, 67])];
    packet.extend(ports.iter().flat_map(|port| port.to_be_bytes()));
    packet.extend(rng.u32(..).to_be_bytes());
    packet.extend(rng.u32(..).to_be_bytes());
    let flags = pick(rng, &[2, 2, 2, 0x10, 0x18, 0x11, 4, 0x14, 0, 0x3f]);
    packet.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    packet.extend((0..payload).map(|_| rng.u8(..)));
    if protocol == 17 {
        packet[24..26].copy_from_slice(&((20 + payload) as u16).to_be_bytes());
    }
    packet
}

fn pick<T: Copy>(rng: &mut fastrand::Rng, choices: &[T]) -> T {
    choices[rng.usize(0..choices.len())]
}
