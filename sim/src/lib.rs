//! Deterministic simulator of nitrotap: the code that ships, in a world made of models, in virtual time, from one seed.
//!
//! # What is real and what is modelled
//! | shipped code | modelled |
//! |---|---|
//! | `nitrotap_core`: link, TAP halves, frame codec, pool, the host's gateway | vsock with credit ([`stream`]), the wires, turmoil as their carrier |
//! | `nitrotap_proxy`: the reverse proxy, hyper included | stock gvproxy ([`gvproxy`]), kernels as smoltcp hosts ([`stack`]), the TAP |
//! | | processors and threads ([`cpu`]), what each step costs ([`params`]), app and clients ([`app`], [`load`]) |
//!
//! # Use it for your own server
//! Make a [`world::World`] with a client and a server of yours, move it on, and look at what the client saw and at
//! [`world::World::breaks`]; `sim/examples/own_server.rs` does it in a page. Everything that a program may use comes with
//! its [`world::ClientSide`] or [`world::ServerSide`]: a clock, connections, processes that cost time.
//!
//! # Two kinds of runs
//! [`measure`] takes throughput in a world where time has a grain of 100 ns ([`time::Scale::FINE`]); [`figure`] is many of
//! them, [`fit`] compares them with real runs and [`model`] with queueing theory. [`soak`] runs random plans with faults in
//! a world where seconds are cheap ([`time::Scale::REAL`]), under the invariants of [`check`].
//!
//! # What makes it deterministic
//! One thread per world, one seed, a stream of random numbers per purpose ([`rng`]), integers wherever a result can reach
//! the [`trace`], ordered maps, and a [`trap`] for whatever reads a real clock or real randomness all the same.
#![warn(missing_docs)]

pub mod app;
mod carver;
mod charged;
pub mod check;
pub mod cpu;
pub mod figure;
pub mod fit;
mod forward;
mod group;
pub mod gvproxy;
pub mod http;
mod ledger;
pub mod load;
mod mailbox;
pub mod measure;
pub mod model;
mod native;
pub mod params;
mod proxy;
pub mod report;
pub mod rng;
pub mod scenario;
pub mod soak;
pub mod stack;
pub mod stream;
mod tap;
pub mod time;
pub mod trace;
pub mod trap;
pub mod world;
