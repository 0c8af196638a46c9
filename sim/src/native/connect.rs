//! The control side: `/connect` of links, and published ports. What it has made goes to the data thread.

use super::{Host, Order, socket::Socket, tenant};
use crate::{
    check::Invariant,
    group::Group,
    gvproxy::{ENCLAVE, Exposed, READ_TIMEOUT, read_request},
    mailbox::Orders,
    stream::Listener,
};
use nitrotap_core::{
    drive::host::{Attach, ExposeError, Forward, LinkKind, Local, Request, Who},
    frame::Framing,
};
use std::{
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
};

/// Takes links: the request is not answered, as gvproxy does not answer it, but whatever came with it counts.
pub(super) async fn serve(listener: Listener, host: Rc<Host>, orders: Orders<Order>, group: Group) {
    loop {
        let stream = listener.accept().await;
        let (orders, host) = (orders.clone(), host.clone());
        group.spawn(async move {
            let early = tokio::select! {
                biased;
                request = read_request(&stream) => request.ok().flatten(),
                () = host.clock.sleep(READ_TIMEOUT) => None,
            };
            if let Some(received) = early {
                let peer = stream.peer();
                orders.send(Order::Request(Request::Attach(Box::new(Attach {
                    stream: Socket::of_frames(stream, host, &received),
                    kind: LinkKind::Stream(Framing::Hyperkit),
                    tenant: tenant(peer),
                    peer: format!("vsock://{peer}"),
                    received,
                    ended: None,
                }))));
            }
        });
    }
}

/// Asks for a port of the enclave to be published.
pub(super) fn publish(Exposed { port, to }: Exposed, host: &Host, orders: &Orders<Order>) -> Option<()> {
    let local = SocketAddr::from((Ipv4Addr::UNSPECIFIED, u16::try_from(port).ok()?));
    let forward =
        Forward { name: local.to_string(), local: Local::Tcp(local), to: (ENCLAVE, to).into(), proxy_protocol: false };
    let (clock, audit) = (host.clock, host.audit.clone());
    let told: Box<dyn FnOnce(Result<SocketAddr, ExposeError>)> = Box::new(move |opened| {
        audit
            .check(clock.now(), Invariant::Progress, opened.is_ok(), || format!("a port is not published: {opened:?}"));
    });
    orders.send(Order::Request(Request::Expose(Who::Operator, forward, told)));
    Some(())
}
