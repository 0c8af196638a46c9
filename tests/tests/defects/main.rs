//! What is wrong with gvproxy, defect by defect: `nitrotap host` is free of it, and a stock gvproxy of the tested releases
//! shows it, so that a test that finds nothing any more is noticed.
//!
//! A probe looks for one defect and gives what it saw of it, or `None`.

#![expect(
    clippy::unwrap_used,
    clippy::unwrap_in_result,
    reason = "a test that cannot go on panics, in its helpers too"
)]

mod names;
mod streams;
mod switch;

use nitrotap_tests::{gateway::Kind, peers::Missing};

/// What a probe saw of its defect.
type Seen = Result<Option<String>, Missing>;

/// The last release of gvproxy that is known to have a defect.
type Release = (u32, u32, u32);

/// A release that is not there yet: nobody has mended it.
const NEVER: Release = (u32::MAX, 0, 0);

macro_rules! our_host_is_free_of {
    ($($module:ident::$probe:ident),* $(,)?) => {
        mod our_host_is_free_of {
            $(#[test]
            fn $probe() {
                let seen = nitrotap_tests::require!(super::$module::$probe(super::Kind::Ours));
                assert_eq!(seen, None);
            })*
        }
    };
}

macro_rules! stock_host_has {
    ($($module:ident::$probe:ident until $last:expr),* $(,)?) => {
        mod stock_host_has {
            use super::NEVER;

            $(#[test]
            fn $probe() {
                super::expect_in_stock(super::$module::$probe, $last);
            })*
        }
    };
}

our_host_is_free_of! {
    streams::unanswered_destinations_that_stall_all_others,
    streams::half_closed_connections_that_are_cut,
    streams::an_enclave_that_reads_nothing_and_stalls_the_others,
    streams::udp_sessions_without_a_bound,
    streams::connections_left_open_outside_after_a_reset,
    streams::a_loopback_that_is_open_to_enclaves_unasked,
    switch::a_short_frame_that_wedges_the_switch,
    switch::bytes_lost_when_they_come_with_the_request,
    switch::a_control_interface_on_the_frame_listener,
    switch::a_mac_that_another_enclave_can_take,
    switch::a_gateway_mac_that_an_enclave_can_take,
    switch::a_twin_that_breaks_its_neighbours,
    switch::the_biggest_frames_that_put_the_stream_out_of_step,
    switch::echo_replies_from_nobody,
    names::aaaa_records_that_are_never_there,
    names::failures_that_all_look_like_unknown_names,
    names::a_resolver_configuration_that_cannot_be_chosen,
}

// Not among them, because stock shows them only when its goroutines meet in the right order: an enclave that reads nothing
// and stalls the others, UDP sessions without a bound, and connections left open outside after a reset.
stock_host_has! {
    streams::unanswered_destinations_that_stall_all_others until (0, 8, 9),
    streams::half_closed_connections_that_are_cut until (0, 8, 7),
    streams::a_loopback_that_is_open_to_enclaves_unasked until NEVER,
    switch::a_short_frame_that_wedges_the_switch until NEVER,
    switch::bytes_lost_when_they_come_with_the_request until NEVER,
    switch::a_control_interface_on_the_frame_listener until NEVER,
    switch::a_mac_that_another_enclave_can_take until NEVER,
    switch::echo_replies_from_nobody until (0, 8, 9),
    names::aaaa_records_that_are_never_there until NEVER,
    names::failures_that_all_look_like_unknown_names until NEVER,
}

/// Fails if stock is free of a defect that it should have, and says so where it is a release that may have mended it.
fn expect_in_stock(probe: fn(Kind) -> Seen, last: Release) {
    let version = nitrotap_tests::require!(Kind::Stock.start()).stock_version().expect("it is stock");
    if version > last {
        let what = format!("this gvproxy is {version:?}, the defect was in {last:?}");
        return Missing::new(what, "set NITROTAP_PEERS to a folder with an older one").skip();
    }
    assert_ne!(nitrotap_tests::require!(probe(Kind::Stock)), None, "gvproxy {version:?} should have it");
}
