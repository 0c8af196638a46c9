//! The reverse proxy's pool of upstream connections, as a closed loop uses it.

use nitrotap_core::{
    pool::{ConnId, Limits, Output, Pool, Verdict, Want},
    time::Instant,
};
use std::{collections::VecDeque, time::Duration};

/// So many requests under way.
pub(crate) struct Requests {
    pool: Pool,
    now: Instant,
    busy: VecDeque<ConnId>,
}

impl Requests {
    pub(crate) fn new(under_way: usize) -> Self {
        let mut requests =
            Self { pool: Pool::new(Limits::default()), now: Instant::from_millis(1000), busy: VecDeque::new() };
        for _ in 0..under_way {
            requests.begin();
        }
        requests
    }

    fn begin(&mut self) {
        self.pool.handle_request(self.now, Want::Any);
        while let Some(output) = self.pool.poll_output() {
            match output {
                Output::Assign { conn, .. } => self.busy.push_back(conn),
                Output::Dial { conn } => self.pool.handle_connected(self.now, conn),
                Output::Reject { .. } | Output::Close { .. } => {}
            }
        }
    }

    /// One request ends and another begins.
    pub(crate) fn run(&mut self) -> usize {
        self.now = self.now + Duration::from_micros(10);
        if let Some(conn) = self.busy.pop_front() {
            self.pool.handle_head(self.now, conn);
            self.pool.handle_done(self.now, conn, Verdict::Reusable);
        }
        self.begin();
        if self.pool.poll_timeout().is_some_and(|at| at <= self.now) {
            self.pool.handle_timeout(self.now);
        }
        self.busy.len()
    }
}
