//! nitriding's forwarder (`proxy.go`): one read and one write per frame out, two reads and one write per frame in, and a
//! new start a second after anything went wrong.

use super::Enclave;
use crate::{
    cpu::Process,
    ledger::Way,
    stream::SimStream,
    trace::{Actor, Event},
};
use nitrotap_core::link::CONNECT_REQUEST;
use std::{rc::Rc, time::Duration};

/// Runs for ever. It knows no virtio-net header.
pub(crate) async fn run(enclave: Enclave, process: Process) {
    debug_assert!(!enclave.tap.has_headers(), "nitriding opens its TAP without IFF_VNET_HDR");
    loop {
        if let Ok(stream) = enclave.net.connect(enclave.host).await
            && stream.send_all(CONNECT_REQUEST).await.is_ok()
        {
            // The TAP is opened and set up meanwhile, which is what saves the first frames from gvproxy's HTTP reader.
            enclave.clock.sleep(Duration::from_millis(50)).await;
            enclave.trace.note(enclave.clock.now(), Actor::Forwarder, Event::LinkState, 0, 1, 0);
            // An ARP request of the kernel's, as `ip link set up` sends it, teaches the switch who is here.
            let enclave = Rc::new(enclave.clone());
            let out = egress(enclave.clone(), stream.clone(), process.clone());
            let inn = ingress(enclave.clone(), stream.clone(), process.clone());
            tokio::select! {
                biased;
                () = out => {}
                () = inn => {}
            }
            enclave.ledger.close(stream.local(), Way::In);
        }
        enclave.clock.sleep(Duration::from_secs(1)).await;
    }
}

async fn egress(enclave: Rc<Enclave>, stream: SimStream, process: Process) {
    let costs = enclave.costs;
    loop {
        let mut slept = 0;
        let frame = loop {
            match enclave.tap.read() {
                Some(frame) => break frame,
                None => {
                    slept = costs.wake_ns;
                    enclave.tap.readable().await;
                }
            }
        };
        let cost = costs.tap_read.cost(frame.len()) + costs.stream_write.cost(frame.len() + 2);
        process.run(&enclave.clock, cost, slept).await;
        enclave.ledger.sent(stream.local(), Way::Out, &frame);
        let prefixed = [&(frame.len() as u16).to_le_bytes()[..], &frame].concat();
        if stream.send_all(&prefixed).await.is_err() {
            return;
        }
    }
}

async fn ingress(enclave: Rc<Enclave>, stream: SimStream, process: Process) {
    let costs = enclave.costs;
    let mut frame = vec![0; usize::from(u16::MAX)];
    loop {
        let mut prefix = [0; 2];
        if read_full(&enclave, &stream, &process, &mut prefix).await.is_none() {
            return;
        }
        let len = usize::from(u16::from_le_bytes(prefix));
        // Frames below a header's length are fatal to it, and then it starts again.
        if len < 12 || read_full(&enclave, &stream, &process, &mut frame[..len]).await.is_none() {
            return;
        }
        enclave.ledger.received(enclave.clock.now(), stream.local(), Way::In, &frame[..len]);
        process.run(&enclave.clock, costs.tap_write.cost(len), 0).await;
        enclave.kernel.handle_frame(&frame[..len]);
    }
}

/// Go's `io.ReadFull`: a system call for each part that is there.
async fn read_full(enclave: &Enclave, stream: &SimStream, process: &Process, buf: &mut [u8]) -> Option<()> {
    let mut have = 0;
    while have < buf.len() {
        let mut slept = 0;
        let n = match stream.try_recv(&mut buf[have..]) {
            Ok(n) => n,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                slept = enclave.costs.wake_ns;
                stream.recv(&mut buf[have..]).await.ok()?
            }
            Err(_) => return None,
        };
        if n == 0 {
            return None;
        }
        have += n;
        process.run(&enclave.clock, enclave.costs.stream_read.cost(n), slept).await;
    }
    Some(())
}
