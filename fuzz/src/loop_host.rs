//! The host's loop in a world of bytes: guests with TCPs of their own on links, connections of the world in both directions,
//! datagrams, published ports, requests, and everything that a kernel may say to a call.
//!
//! When the bytes are used up, the world is kind, and all that was begun must come to its end.

mod audit;
mod ends;
mod guest;
mod outside;
mod pattern;
mod steps;

use crate::world::Script;
use ends::{Edges, Handles};
use guest::Guests;
use nitrotap_core::{
    drive::{
        block,
        host::{Config, Host},
    },
    frame::Framing,
    gateway::{self, Gateway, TenantLimits},
    time::Instant,
};
use outside::{Outside, Seen, Stage};
use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
};

const GUESTS: usize = 3;
const FLOWS: usize = 10;
const SESSIONS: usize = 6;
/// Bytes per second of a connection, where they are limited.
const RATE: u64 = 256 << 10;

/// A byte of flags (1: every call on a stream takes a byte, 2: news tell all that is true, 4: rates are limited), one that
/// says how frames lie on each guest's link, then steps: what is done in the lower four bits of a byte, how in the next
/// three, and whether another one follows before the loop goes on in the last; behind each, what that takes.
pub fn loop_host(data: &[u8]) {
    let [flags, links, script @ ..] = data else { return };
    let tenant = TenantLimits { flows: FLOWS, half_open: FLOWS, sessions: SESSIONS, rate: None };
    let gateway = Gateway::new(gateway::Config {
        tenant,
        max_flows: 2 * FLOWS,
        max_sessions: SESSIONS,
        memory: 2 * FLOWS * (16 << 10) + (8 << 20),
        guest_services: true,
        seed: 1,
        ..gateway::Config::default()
    });
    let Ok(gateway) = gateway else { unreachable!("this gateway can be") };
    let (handles, is_over) = (Handles::default(), Rc::new(Cell::new(false)));
    let mut outside = Outside {
        script: Script::new(script),
        nervous: flags & 1 != 0,
        talkative: flags & 2 != 0,
        limited: flags & 4 != 0,
        clock: 1_000_000_000,
        handles: handles.clone(),
        is_over: Rc::clone(&is_over),
        stage: Stage::Script,
        began: Instant::ZERO,
        guests: Guests::new(GUESTS),
        ends: Vec::new(),
        sockets: Vec::new(),
        ports: Vec::new(),
        links: BTreeMap::new(),
        requests: VecDeque::new(),
        questions: VecDeque::new(),
        edges: Edges::default(),
        sent: BTreeSet::new(),
        name: steps::NAMES,
        seen: Seen::default(),
        moved: false,
        idle: (Instant::ZERO, 0),
    };
    for guest in 0..GUESTS {
        let framing = match links >> (2 * guest) & 3 {
            0 | 1 => Some(Framing::Hyperkit),
            2 => Some(Framing::Qemu),
            _ => None,
        };
        outside.attach(guest, framing, 0);
    }
    let config = Config { flow_rate: (flags & 4 != 0).then_some(RATE), max_forwards: 4 };
    let _ = block(Host::new(outside, gateway, config).run());
    assert!(is_over.get(), "the loop ended by itself");
    assert_eq!(handles.held(), 0, "something is open still");
}
