//! The limit of open files: a proxy under load needs one for each connection.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What nitriding sets too; enough for 30,000 proxied connections.
const WANTED: u64 = 65_536;

/// Raises the limit to [`WANTED`], or as far as we may. A limit above it stays.
pub(crate) fn raise_nofile() {
    let now = getrlimit(Resource::Nofile);
    let enough = |limit: Option<u64>| limit.is_none_or(|n| n >= WANTED);
    if enough(now.current) {
        return;
    }
    let hard = if enough(now.maximum) { now.maximum } else { Some(WANTED) };
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(WANTED), maximum: hard })
        .or_else(|_| setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum }));
    if let Err(error) = raised {
        tracing::warn!(%error, limit = ?now.current, "cannot raise the limit of open files");
    }
}
