//! How fast the hot loops are: `cargo bench --bench speed`. Figures of one machine; for what does not wobble see
//! `instructions`.

mod work;

use divan::{
    Bencher,
    counter::{BytesCount, ItemsCount},
};
use work::{FULL, codec, drive, gateway, offload, pool};

fn main() {
    divan::main();
}

/// Runs `run` on its state, and tells how many bytes a call goes through.
fn bytes<T>(bencher: Bencher<'_, '_>, mut state: T, mut run: impl FnMut(&mut T) -> usize) {
    let bytes = run(&mut state);
    bencher.counter(BytesCount::new(bytes)).bench_local(|| run(&mut state));
}

#[divan::bench(args = [60, FULL, 65_534])]
fn decode(bencher: Bencher<'_, '_>, len: usize) {
    bytes(bencher, codec::Inbound::new(len), codec::Inbound::run);
}

#[divan::bench]
fn joining(bencher: Bencher<'_, '_>) {
    bytes(bencher, codec::Joining::new(), codec::Joining::run);
}

#[divan::bench]
fn batch(bencher: Bencher<'_, '_>) {
    bytes(bencher, codec::Outbound::new(), codec::Outbound::run);
}

#[divan::bench(args = [60, FULL])]
fn loop_outbound(bencher: Bencher<'_, '_>, len: usize) {
    bytes(bencher, drive::Outbound::new(len, usize::MAX), drive::Outbound::run);
}

#[divan::bench(args = [40, 1460, 65_000])]
fn checksum(bencher: Bencher<'_, '_>, len: usize) {
    bytes(bencher, offload::Sum::new(len), |sum| sum.run());
}

#[divan::bench]
fn segmentation(bencher: Bencher<'_, '_>) {
    bytes(bencher, offload::Segmentation::new(), offload::Segmentation::run);
}

#[divan::bench(args = [1, 10_000])]
fn gateway_outbound(bencher: Bencher<'_, '_>, flows: usize) {
    bytes(bencher, gateway::World::new(flows), gateway::World::outbound);
}

#[divan::bench(args = [1, 10_000])]
fn gateway_inbound(bencher: Bencher<'_, '_>, flows: usize) {
    bytes(bencher, gateway::World::new(flows), gateway::World::inbound);
}

#[divan::bench(args = [1, 10_000])]
fn gateway_exchange(bencher: Bencher<'_, '_>, flows: usize) {
    let mut world = gateway::World::new(flows);
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| world.exchange());
}

#[divan::bench(args = [64, 1472])]
fn gateway_datagrams(bencher: Bencher<'_, '_>, len: usize) {
    bytes(bencher, gateway::Datagrams::new(len), gateway::Datagrams::run);
}

#[divan::bench(args = [1, 64, 1024])]
fn pool_request(bencher: Bencher<'_, '_>, under_way: usize) {
    let mut requests = pool::Requests::new(under_way);
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| requests.run());
}
