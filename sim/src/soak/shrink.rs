//! Makes a failing plan smaller while it goes on failing in the same way.
//!
//! Takes away faults and loads, in halves and then one by one (delta debugging), then clients, sizes and time. Every
//! purpose draws from a stream of its own, so that what is left behaves as it did.

use super::{
    plan::{LoadKind, Plan},
    run::{Verdict, run},
};
use crate::check::Invariant;

/// A smaller plan.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// What is left.
    pub plan: Plan,
    /// How it fails.
    pub verdict: Verdict,
    /// Plans that were tried.
    pub tried: u32,
}

/// Shrinks `plan` for as long as `more` says so; `None` if it does not fail at all. `more` is asked before every try and
/// told how many there were.
#[must_use]
pub fn shrink(plan: &Plan, mut more: impl FnMut(u32) -> bool) -> Option<Shrunk> {
    let verdict = run(plan, false);
    let invariant = verdict.breaks.first()?.invariant;
    let mut state = State { best: Shrunk { plan: plan.clone(), verdict, tried: 1 }, invariant };
    loop {
        let before = state.best.plan.clone();
        for step in STEPS {
            while more(state.best.tried) && step(&mut state) {}
        }
        if state.best.plan == before || !more(state.best.tried) {
            return Some(state.best);
        }
    }
}

struct State {
    best: Shrunk,
    invariant: Invariant,
}

impl State {
    /// Takes `plan` if it is another one and fails in the same way.
    fn take(&mut self, plan: Plan) -> bool {
        if plan == self.best.plan {
            return false;
        }
        self.best.tried += 1;
        let verdict = run(&plan, false);
        let same = verdict.breaks.first().is_some_and(|first| first.invariant == self.invariant);
        if same {
            self.best.plan = plan;
            self.best.verdict = verdict;
        }
        same
    }

    fn change(&mut self, change: impl FnOnce(&mut Plan)) -> bool {
        let mut plan = self.best.plan.clone();
        change(&mut plan);
        self.take(plan)
    }
}

/// Each makes one step and says whether it did.
const STEPS: [fn(&mut State) -> bool; 6] = [fewer_faults, fewer_loads, fewer_clients, smaller, plainer, shorter];

fn fewer_faults(state: &mut State) -> bool {
    let n = state.best.plan.faults.len();
    pieces(n).into_iter().any(|(from, to)| state.change(|plan| drop(plan.faults.drain(from..to))))
}

fn fewer_loads(state: &mut State) -> bool {
    let n = state.best.plan.loads.len();
    pieces(n).into_iter().any(|(from, to)| state.change(|plan| drop(plan.loads.drain(from..to))))
}

/// Everything, halves, quarters and so on down to single places of a list.
fn pieces(n: usize) -> Vec<(usize, usize)> {
    let mut pieces = Vec::new();
    let mut size = n;
    while size > 0 {
        let mut from = 0;
        while from < n {
            pieces.push((from, (from + size).min(n)));
            from += size;
        }
        size /= 2;
    }
    pieces
}

fn fewer_clients(state: &mut State) -> bool {
    (0..state.best.plan.loads.len()).any(|i| {
        let few = state.best.plan.loads[i].clients <= 1;
        !few && (state.change(|plan| plan.loads[i].clients = 1) || state.change(|plan| plan.loads[i].clients /= 2))
    })
}

fn smaller(state: &mut State) -> bool {
    (0..state.best.plan.loads.len()).any(|i| {
        state.change(|plan| match &mut plan.loads[i].kind {
            LoadKind::Http { max_body, .. } => *max_body /= 2,
            LoadKind::Tunnel(transfer) | LoadKind::EchoIn(transfer) | LoadKind::EchoOut(transfer) => {
                transfer.max_bytes = (transfer.max_bytes / 2).max(1);
            }
            LoadKind::Datagrams { max_bytes } => *max_bytes = (*max_bytes / 2).max(1),
            LoadKind::DialRefused
            | LoadKind::DialUnanswered
            | LoadKind::Names
            | LoadKind::Rogue
            | LoadKind::PartingIn
            | LoadKind::PartingOut => {}
        }) || state.change(|plan| {
            if let LoadKind::Http { unruly_permille, .. } = &mut plan.loads[i].kind {
                *unruly_permille = 0;
            }
        })
    })
}

fn plainer(state: &mut State) -> bool {
    state.change(|plan| plan.fragment = false)
        || state.change(|plan| plan.shuffle = false)
        || state.change(|plan| plan.mtu = 1500)
        || state.change(|plan| plan.txqueuelen = 1000)
        || state.change(|plan| plan.buf_alloc = 262_144)
        || state.change(|plan| plan.host_buffer = crate::world::HOST_BUFFER)
        || state.change(|plan| plan.flow_rate = None)
}

/// Cuts off what comes after the failure.
fn shorter(state: &mut State) -> bool {
    let Some(first) = state.best.verdict.breaks.first() else { return false };
    let failed_ms = first.at_ns / 1_000_000;
    state.change(|plan| {
        plan.faults.retain(|fault| fault.at_ms <= failed_ms);
        plan.end_ms = plan.end_ms.min(failed_ms + 1_000);
    })
}
