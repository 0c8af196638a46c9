//! The same frames and the same requests to the real gvproxy and to `nitrotap host`: the answers are the same, but for what
//! [`table::DIFFERENCES`] lists, each with its reason.
//!
//! A scenario notes facts under keys; what differs between two runs of the same program (ports, transaction numbers) is
//! left out or replaced by a word. The test fails if an unlisted fact differs, and if a listed one no longer does. Both
//! lists of facts are left in the target folder, for people.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics, in its helpers too")]

mod facts;
mod frames;
mod names;
mod requests;
mod streams;
mod table;

use facts::Facts;
use nitrotap_tests::{World, gateway::Kind, peers::Missing, require};
use std::{fmt::Write as _, fs, path::Path, thread};
use table::{DIFFERENCES, Difference};

/// The release that the table was made from.
const STOCK: (u32, u32, u32) = (0, 8, 1);

/// Runs every scenario at one gateway.
fn record(kind: Kind) -> Result<Facts, Missing> {
    // All that stock does unasked.
    let options = match kind {
        Kind::Stock => kind.options(),
        Kind::Ours => kind.options().args(&["--guest-services"]),
    };
    let world = World::new()?;
    let mut facts = Facts::default();
    frames::record(&mut facts, &options.clone().start()?);
    streams::record(&mut facts, &options.clone().start()?);
    requests::record(&mut facts, &options.clone().start()?);
    let inside = world.start(options)?;
    names::record(&mut facts, &inside);
    streams::record_of_silence(&mut facts, &inside);
    Ok(facts)
}

fn write(facts: &Facts, name: &str) {
    fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name), facts.to_string()).unwrap();
}

/// What is wrong with the facts or with the table, a line each.
fn complaints(stock: &Facts, ours: &Facts, table: &[Difference]) -> String {
    let mut text = String::new();
    for (key, stock, ours) in stock.compare(ours) {
        if stock != ours && !table.iter().any(|difference| difference.key == key) {
            writeln!(text, "not listed: {key}\n  stock: {stock}\n  ours:  {ours}").unwrap();
        }
    }
    for Difference { key, stock: listed_stock, ours: listed_ours, .. } in table {
        let (stock, ours) = (stock.get(key), ours.get(key));
        if (stock, ours) != (listed_stock, listed_ours) {
            writeln!(
                text,
                "listed: {key}\n  stock: {listed_stock}\n  ours:  {listed_ours}\n but it is\n  stock: {stock}\n  ours:  {ours}"
            )
            .unwrap();
        }
    }
    text
}

#[test]
fn our_gateway_answers_as_the_real_gvproxy_does_but_for_what_is_listed() {
    let version = require!(Kind::Stock.start()).stock_version();
    if version != Some(STOCK) {
        let what = format!("gvproxy is {version:?}, and the table of differences is that of {STOCK:?}");
        return Missing::new(what, "set NITROTAP_PEERS to a folder with that one").skip();
    }
    // Both at the same time: most of it is waiting for answers that do not come.
    let (stock, ours) = thread::scope(|scope| {
        let stock = scope.spawn(|| record(Kind::Stock));
        let ours = scope.spawn(|| record(Kind::Ours));
        (stock.join().unwrap(), ours.join().unwrap())
    });
    let (stock, ours) = (require!(stock), require!(ours));
    write(&stock, "facts-stock.txt");
    write(&ours, "facts-ours.txt");
    let complaints = complaints(&stock, &ours, DIFFERENCES);
    assert!(complaints.is_empty(), "{complaints}");
}

#[test]
fn a_difference_that_is_not_listed_and_a_listed_one_that_is_gone_are_complained_about() {
    let facts = |pairs: &[(&str, &str)]| {
        let mut facts = Facts::default();
        pairs.iter().for_each(|(key, value)| facts.note(key, value));
        facts
    };
    let (stock, ours) = (facts(&[("a", "1"), ("b", "2")]), facts(&[("a", "1"), ("b", "3"), ("c", "4")]));
    let table = [
        Difference { key: "b", stock: "2", ours: "3", reason: "" },
        Difference { key: "c", stock: facts::NOTHING, ours: "4", reason: "" },
    ];
    assert_eq!(complaints(&stock, &ours, &table), "");
    assert!(complaints(&stock, &ours, &table[..1]).starts_with("not listed: c\n"));
    assert!(complaints(&stock, &stock, &table[..1]).starts_with("listed: b\n"));
    let other = Difference { key: "a", stock: "1", ours: "2", reason: "" };
    assert!(complaints(&stock, &ours, &[&table[..], &[other]].concat()).starts_with("listed: a\n"));
}

#[test]
fn every_difference_is_listed_once_with_both_sides_and_a_reason() {
    for (i, difference) in DIFFERENCES.iter().enumerate() {
        assert_ne!(difference.stock, difference.ours, "{}", difference.key);
        assert!(!difference.reason.is_empty(), "{}", difference.key);
        assert!(DIFFERENCES[..i].iter().all(|other| other.key != difference.key), "{}", difference.key);
    }
}
