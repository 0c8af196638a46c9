//! Questions over UDP to the name server: who waits for an answer.
//!
//! Bounds: [`MOST`] of one link; the oldest ones are forgotten after [`UNANSWERED`].

use crate::{
    gateway::{
        lan::{Lan, Place},
        port::PortId,
    },
    time::Instant,
};
use core::{net::IpAddr, time::Duration};
use std::collections::BTreeMap;

/// Questions of one link that may wait for their answers: what a resolver inside has under way, and no more than leaves the
/// name server to others.
const MOST: usize = 64;

/// A question that was not answered by then never will be: the name server gives up after five seconds.
const UNANSWERED: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
struct Question {
    asked: Instant,
    from: Place,
    address: (IpAddr, u16),
    /// The gateway's address that was asked.
    server: IpAddr,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Questions {
    waiting: BTreeMap<u64, Question>,
    number: u64,
}

impl Questions {
    /// A link is gone.
    pub(super) fn detach(&mut self, port: PortId) {
        self.waiting.retain(|_, question| question.from.0 != port);
    }

    /// The number of a new question; `None` if the link has too many that wait.
    pub(super) fn ask(
        &mut self,
        now: Instant,
        lan: &mut Lan,
        from: Place,
        address: (IpAddr, u16),
        server: IpAddr,
    ) -> Option<u64> {
        let Self { waiting, number } = self;
        let of_link = lan.questions(from.0)?;
        while let Some(oldest) = of_link.front() {
            match waiting.get(oldest) {
                Some(question) if now.since(question.asked) < UNANSWERED => break,
                Some(_) | None => {
                    waiting.remove(oldest);
                    of_link.pop_front();
                }
            }
        }
        if of_link.len() >= MOST {
            // Answers come in any order: those in the middle may be there.
            of_link.retain(|number| waiting.contains_key(number));
        }
        if of_link.len() >= MOST {
            return None;
        }
        let new = *number;
        *number += 1;
        of_link.push_back(new);
        waiting.insert(new, Question { asked: now, from, address, server });
        Some(new)
    }

    /// A question waits no more. Gives who has asked, and which address of the gateway; `None` if it was forgotten.
    pub(super) fn take(&mut self, number: u64) -> Option<(Place, IpAddr, (IpAddr, u16))> {
        let Question { from, server, address, .. } = self.waiting.remove(&number)?;
        Some((from, server, address))
    }
}
