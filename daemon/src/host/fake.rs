//! A data thread for tests: answers the mailbox from what it was told, and keeps what it was given.

use super::{
    control::{ExposeError, Forward, Handle, Request, Waiting},
    dns::{DnsHandle, DnsService, Hooks, Settings},
};
use crate::{clock::Clock, drive::mailbox::Mailbox};
use nitrotap_core::gateway::dns::DnsConfig;
use rustix::event::{PollFd, PollFlags, poll};
use std::{net::SocketAddr, sync::mpsc, thread};

/// What a data thread was given.
#[derive(Debug)]
pub(super) enum Given {
    Attach(super::control::Attach),
    Tunnel(super::control::Tunnel),
    Stop,
}

/// Starts one; it ends with [`Handle::stop`]. What it is given comes out of the channel.
pub(super) fn data_thread() -> (Handle, mpsc::Receiver<Given>) {
    let mailbox: Mailbox<Waiting> = Mailbox::new().unwrap();
    let handle = Handle::new(mailbox.clone());
    let (give, given) = mpsc::channel();
    thread::spawn(move || {
        let mut forwards: Vec<Forward> = Vec::new();
        loop {
            poll(&mut [PollFd::new(mailbox.wake(), PollFlags::IN)], None).unwrap();
            while let Some(waiting) = mailbox.take() {
                match waiting.request {
                    Request::Attach(attach) => give.send(Given::Attach(*attach)).unwrap_or_default(),
                    Request::Tunnel(tunnel) => give.send(Given::Tunnel(tunnel)).unwrap_or_default(),
                    Request::Expose(_, forward, reply) => {
                        let _ = reply.send(expose(&mut forwards, forward));
                    }
                    Request::Unexpose(_, protocol, name, reply) => {
                        let before = forwards.len();
                        forwards.retain(|f| f.name != name || f.local.protocol() != protocol);
                        let _ = reply.send(forwards.len() < before);
                    }
                    Request::Forwards(_, reply) => {
                        let _ = reply.send(forwards.clone());
                    }
                    Request::Cam(reply) => {
                        let _ = reply.send(vec![([0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xee], 3), ([2, 0, 0, 0, 0, 1], 7)]);
                    }
                    Request::Leases(reply) => {
                        let leases = [(1, 0xdd), (10, 1), (2, 0xee)];
                        let lease = |(ip, mac)| ([192, 168, 127, ip].into(), [0x5a, 0x94, 0xef, 0xe4, 0x0c, mac]);
                        let _ = reply.send(leases.into_iter().map(lease).collect());
                    }
                    Request::Stats(reply) => {
                        let stats = [("TCP.CurrentEstablished", 2), ("BytesSent", 5), ("BytesReceived", 6)];
                        let _ = reply.send(stats.map(|(name, value)| (name.to_owned(), value)).into());
                    }
                    Request::Alive(reply) => drop(reply.send(())),
                    Request::DnsAnswer { .. }
                    | Request::Learn(..)
                    | Request::ReopenCapture
                    | Request::HostAddresses(_)
                    | Request::Control(_) => {}
                    Request::Stop => {
                        let _ = give.send(Given::Stop);
                        return;
                    }
                }
            }
        }
    });
    (handle, given)
}

/// A name server without zones and resolvers, on the runtime around this call.
pub(super) fn names() -> DnsHandle {
    let settings = Settings { resolv_conf: "/dev/null".into(), hosts: None, port: None };
    let hooks = Hooks { answer: Box::new(|_, _| {}), seen: None, filter: None };
    let (handle, service) = DnsService::new(DnsConfig::new(Vec::new(), 0), settings, hooks, Clock::start()).unwrap();
    tokio::spawn(service.run());
    handle
}

fn expose(forwards: &mut Vec<Forward>, forward: Forward) -> Result<SocketAddr, ExposeError> {
    let protocol = forward.local.protocol();
    let name = forward.name.clone();
    if forwards.iter().any(|f| f.name == name && f.local.protocol() == protocol) {
        return Err(ExposeError::Exists { protocol, name });
    }
    if forward.to.ip() == std::net::Ipv4Addr::new(8, 8, 8, 8) {
        return Err(ExposeError::NotAGuest(forward.to));
    }
    forwards.push(forward);
    forwards.sort_by(|a, b| (&a.name, a.local.protocol()).cmp(&(&b.name, b.local.protocol())));
    Ok(([0, 0, 0, 0], 0).into())
}
