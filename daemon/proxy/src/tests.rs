//! The proxy between scripted clients and scripted upstreams, all in memory and in virtual time.

mod clients;
mod failures;
mod forwarding;
mod hygiene;
mod messages;
mod reuse;
mod slow;
mod upgrades;
mod world;
