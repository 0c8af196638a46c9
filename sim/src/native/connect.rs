//! The control side: `/connect` of links, and published ports. What it has made goes to the data thread.

use super::drive::Order;
use crate::{
    group::Group,
    gvproxy::{READ_TIMEOUT, read_request},
    mailbox::Orders,
    stream::Listener,
    time::Clock,
};

/// Takes links: the request is not answered, as gvproxy does not answer it, but whatever came with it counts.
pub(super) async fn serve(listener: Listener, clock: Clock, orders: Orders<Order>, group: Group) {
    loop {
        let stream = listener.accept().await;
        let orders = orders.clone();
        group.spawn(async move {
            let early = tokio::select! {
                biased;
                request = read_request(&stream) => request.ok().flatten(),
                () = clock.sleep(READ_TIMEOUT) => None,
            };
            if let Some(early) = early {
                orders.send(Order::Link(stream, early));
            }
        });
    }
}

/// Takes connections of the world to a port of the enclave.
pub(super) async fn publish(listener: Listener, to: u16, orders: Orders<Order>) {
    loop {
        let stream = listener.accept().await;
        orders.send(Order::Client(stream, to));
    }
}
