//! The tasks of one process: started together, ended together, and a panic in one of them is noticed.

use crate::{
    check::{Audit, Invariant},
    time::Clock,
};
use std::{cell::RefCell, rc::Rc};
use tokio::task::{JoinError, JoinSet};

/// A process's tasks on the current turmoil host; clones are handles.
#[derive(Clone, Debug)]
pub(crate) struct Group(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    name: &'static str,
    tasks: RefCell<JoinSet<()>>,
    audit: Audit,
    clock: Clock,
}

impl Group {
    /// A process without tasks.
    #[must_use]
    pub(crate) fn new(name: &'static str, audit: Audit, clock: Clock) -> Self {
        Self(Rc::new(Inner { name, tasks: RefCell::default(), audit, clock }))
    }

    /// Starts a task.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.reap();
        self.0.tasks.borrow_mut().spawn_local(task);
    }

    /// Ends every task at once, as a signal that cannot be caught does; the kernel closes what they held.
    pub(crate) async fn kill(&self) {
        let mut tasks = self.0.tasks.take();
        tasks.abort_all();
        while let Some(result) = tasks.join_next().await {
            self.look_at(result);
        }
    }

    /// Looks at the tasks that have ended.
    pub(crate) fn reap(&self) {
        while let Some(result) = self.0.tasks.borrow_mut().try_join_next() {
            self.look_at(result);
        }
    }

    fn look_at(&self, result: Result<(), JoinError>) {
        let Err(error) = result else { return };
        if let Ok(panic) = error.try_into_panic() {
            let text = panic
                .downcast_ref::<&str>()
                .map(ToString::to_string)
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_else(|| "no message".to_owned());
            self.0.audit.fail(self.0.clock.now(), Invariant::NoPanic, format!("{}: {text}", self.0.name));
        }
    }
}
