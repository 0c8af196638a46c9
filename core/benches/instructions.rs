//! How many instructions the hot loops take, counted by Valgrind: `cargo bench --bench instructions`. Counts do not wobble
//! with what else the machine does, so `.ci/run instructions` holds them against `instructions.tsv`.

#![expect(unused_qualifications, reason = "of the macros")]

mod work;

use gungraun::{LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main};
use std::hint::black_box;
use work::{FULL, codec, drive, gateway, offload, pool};

// States are given back: what it takes to drop them is then not counted either.

/// One call is not counted: it takes what later ones do not, such as the first use of a buffer.
fn warm<T>(mut state: T, run: fn(&mut T) -> usize) -> T {
    black_box(run(&mut state));
    state
}

fn inbound(len: usize) -> codec::Inbound {
    warm(codec::Inbound::new(len), codec::Inbound::run)
}

fn world(flows: usize, run: fn(&mut gateway::World) -> usize) -> gateway::World {
    warm(gateway::World::new(flows), run)
}

#[library_benchmark]
#[bench::small(inbound(60))]
#[bench::full(inbound(FULL))]
fn decode(mut state: codec::Inbound) -> codec::Inbound {
    black_box(state.run());
    state
}

#[library_benchmark]
#[bench::full(warm(codec::Joining::new(), codec::Joining::run))]
fn joining(mut state: codec::Joining) -> codec::Joining {
    black_box(state.run());
    state
}

#[library_benchmark]
#[bench::full(warm(codec::Outbound::new(), codec::Outbound::run))]
fn batch(mut state: codec::Outbound) -> codec::Outbound {
    black_box(state.run());
    state
}

#[library_benchmark]
#[bench::small(warm(drive::Outbound::new(60, usize::MAX), drive::Outbound::run))]
#[bench::full(warm(drive::Outbound::new(FULL, usize::MAX), drive::Outbound::run))]
#[bench::one_by_one(warm(drive::Outbound::new(60, 1), drive::Outbound::run))]
fn loop_outbound(mut state: drive::Outbound) -> drive::Outbound {
    black_box(state.run());
    state
}

#[library_benchmark]
#[bench::head(offload::Sum::new(40))]
#[bench::full(offload::Sum::new(1460))]
fn checksum(state: offload::Sum) -> offload::Sum {
    black_box(state.run());
    state
}

#[library_benchmark]
#[bench::full(warm(offload::Segmentation::new(), offload::Segmentation::run))]
fn segmentation(mut state: offload::Segmentation) -> offload::Segmentation {
    black_box(state.run());
    state
}

#[library_benchmark]
#[bench::alone(world(1, gateway::World::outbound))]
#[bench::among_100(world(100, gateway::World::outbound))]
fn gateway_outbound(mut state: gateway::World) -> gateway::World {
    black_box(state.outbound());
    state
}

#[library_benchmark]
#[bench::alone(world(1, gateway::World::inbound))]
#[bench::among_100(world(100, gateway::World::inbound))]
fn gateway_inbound(mut state: gateway::World) -> gateway::World {
    black_box(state.inbound());
    state
}

#[library_benchmark]
#[bench::alone(world(1, gateway::World::exchange))]
#[bench::among_100(world(100, gateway::World::exchange))]
fn gateway_exchange(mut state: gateway::World) -> gateway::World {
    black_box(state.exchange());
    state
}

#[library_benchmark]
#[bench::small(warm(gateway::Datagrams::new(64), gateway::Datagrams::run))]
fn gateway_datagrams(mut state: gateway::Datagrams) -> gateway::Datagrams {
    black_box(state.run());
    state
}

#[library_benchmark]
#[bench::under_way_64(warm(pool::Requests::new(64), pool::Requests::run))]
fn pool_request(mut state: pool::Requests) -> pool::Requests {
    black_box(state.run());
    state
}

library_benchmark_group!(
    name = hot,
    benchmarks = [
        decode,
        joining,
        batch,
        loop_outbound,
        checksum,
        segmentation,
        gateway_outbound,
        gateway_inbound,
        gateway_exchange,
        gateway_datagrams,
        pool_request
    ]
);

// Valgrind counts `rep movsb` as an instruction per byte, and a copy would hide everything else.
main!(
    config = LibraryBenchmarkConfig::default().env(
        "GLIBC_TUNABLES",
        "glibc.cpu.x86_rep_movsb_threshold=0x40000000:glibc.cpu.x86_rep_stosb_threshold=0x40000000:\
         glibc.cpu.x86_non_temporal_threshold=0x40000000"
    ),
    library_benchmark_groups = hot
);
