//! What a number of connections costs a gateway: memory, openings per second, processor time per packet.

use super::{Flows, echo};
use crate::{gateway::Gateway, usage, wait};
use std::{thread, time::Duration};

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Connections to compare: a few, and many.
    pub few: usize,
    pub many: usize,
    /// How many of the many are active while the others are idle, before all are.
    pub active: usize,
    /// Requests, with an echo each, at either number of connections.
    pub packets: u64,
    /// Bytes of a request.
    pub size: usize,
    /// SYNs under way. A stock gateway drops more than ten.
    pub opening: usize,
    /// Requests under way.
    pub at_once: usize,
}

impl Default for Plan {
    fn default() -> Self {
        Self { few: 10, many: 10_000, active: 1000, packets: 100_000, size: 64, opening: 8, at_once: 64 }
    }
}

/// What was measured at a number of connections.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Connections that stood.
    pub flows: usize,
    /// How many of them carried something.
    pub active: usize,
    /// Openings per second, for those that were opened last.
    pub openings: f64,
    /// SYNs and requests so far that were not answered within a second and sent again.
    pub repeated: u64,
    /// Resident memory while all are idle and have carried nothing yet, in bytes, and how much of it came with each.
    pub resident: u64,
    pub resident_per_flow: f64,
    /// The same per connection, once each has carried something.
    pub used_per_flow: f64,
    /// Echoes per second.
    pub echoes: f64,
    /// Processor time of the gateway, in microseconds, per echo: a segment in, a segment out, and their acknowledgements.
    pub processor: f64,
}

/// Measures a gateway that nobody else uses: with a few connections, with many of which some are active, and with many.
pub fn measure(gateway: &Gateway, plan: Plan) -> [Figures; 3] {
    let mut flows = Flows::new(gateway, echo::serve(), plan.size);
    let empty = usage::resident(gateway.pid());
    let few = open(gateway, &mut flows, plan.few, empty, plan);
    let few = exchange(gateway, &mut flows, few, empty, plan);
    let many = open(gateway, &mut flows, plan.many, empty, plan);
    let some = exchange(gateway, &mut flows, Figures { active: plan.active.min(many.flows), ..many }, empty, plan);
    let many = exchange(gateway, &mut flows, many, empty, plan);
    [few, some, many]
}

/// Until a runtime has given back what the openings needed for a moment.
const SETTLE: Duration = Duration::from_secs(2);

/// Opens connections until there are `count`; the figures lack those of an exchange.
fn open(gateway: &Gateway, flows: &mut Flows, count: usize, empty: u64, plan: Plan) -> Figures {
    let before = flows.open();
    let start = wait::now();
    let open = flows.open_up_to(count, plan.opening);
    let openings = per_second((open - before) as u64, start.elapsed());
    thread::sleep(SETTLE);
    let resident = usage::resident(gateway.pid());
    Figures {
        flows: open,
        active: open,
        openings,
        repeated: flows.repeated(),
        resident,
        resident_per_flow: number(resident.saturating_sub(empty)) / number(open as u64),
        used_per_flow: f64::NAN,
        echoes: f64::NAN,
        processor: f64::NAN,
    }
}

/// Exchanges over the active ones of the connections that `figures` tells of, and completes it.
fn exchange(gateway: &Gateway, flows: &mut Flows, figures: Figures, empty: u64, plan: Plan) -> Figures {
    // Caches and buffers are as warm as they get.
    flows.exchange(plan.packets.max(figures.active as u64 * 10) / 10, plan.at_once, figures.active);
    let (start, processor) = (wait::now(), usage::processor_time(gateway.pid()));
    flows.exchange(plan.packets, plan.at_once, figures.active);
    let echoes = per_second(plan.packets, start.elapsed());
    let processor = (usage::processor_time(gateway.pid()) - processor).as_secs_f64() * 1e6;
    thread::sleep(SETTLE);
    let used = usage::resident(gateway.pid()).saturating_sub(empty);
    Figures {
        repeated: flows.repeated(),
        used_per_flow: number(used) / number(figures.flows as u64),
        echoes,
        processor: processor / number(plan.packets),
        ..figures
    }
}

fn per_second(count: u64, time: Duration) -> f64 {
    number(count) / time.as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "counts and bytes far below 2^53")]
const fn number(count: u64) -> f64 {
    count as f64
}
