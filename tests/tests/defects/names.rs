//! DNS.

use crate::Seen;
use hickory_proto::{op::ResponseCode, rr::RecordType};
use nitrotap_tests::{FrameClient, World, frameclient::Station, gateway::Kind};
use std::{fs, time::Duration};

const ANSWER: Duration = Duration::from_secs(15);

pub(crate) fn aaaa_records_that_are_never_there(kind: Kind) -> Seen {
    let world = World::new()?;
    let gateway = world.start(kind.options())?;
    let mut client = FrameClient::connect(&gateway, Station::number(2));
    let answer = client.dns_query("ok.test.", RecordType::AAAA, ANSWER).expect("an answer");
    Ok(answer.answers.is_empty().then(|| format!("{:?} and no record", answer.metadata.response_code)))
}

/// A name that does not exist, a server that cannot tell, and one that says nothing are three things.
pub(crate) fn failures_that_all_look_like_unknown_names(kind: Kind) -> Seen {
    let world = World::new()?;
    let gateway = world.start(kind.options())?;
    let mut client = FrameClient::connect(&gateway, Station::number(2));
    let mut code =
        |name: &str| client.dns_query(name, RecordType::A, ANSWER).map(|answer| answer.metadata.response_code);
    let codes = [code("nx.test."), code("fail.test."), code("silent.test.")];
    let [unknown, failed, silent] = codes;
    let told_apart = unknown == Some(ResponseCode::NXDomain)
        && failed == Some(ResponseCode::ServFail)
        && silent == Some(ResponseCode::ServFail);
    Ok((!told_apart).then(|| format!("{codes:?}")))
}

/// Ours only: stock has no such option.
pub(crate) fn a_resolver_configuration_that_cannot_be_chosen(kind: Kind) -> Seen {
    let world = World::new()?;
    let file = world.scratch().join("other-resolv.conf");
    // The world's own says 127.0.0.1, where a server is too: both would answer, but only one search list is this.
    fs::write(&file, "nameserver 127.0.0.1\nsearch chosen.test\n").unwrap();
    let gateway = world.start(kind.options().args(&["--resolv-conf", file.to_str().unwrap()]))?;
    let mut client = FrameClient::connect(&gateway, Station::number(7));
    let offer = client.dhcp_exchange(dhcproto::v4::MessageType::Discover, None, ANSWER).expect("an offer");
    let search = format!("{:?}", offer.opts().get(dhcproto::v4::OptionCode::DomainSearch));
    let resolves = client.dns_query("ok.test.", RecordType::A, ANSWER).is_some_and(|answer| answer.answers.len() == 1);
    Ok((!(search.contains("chosen") && resolves)).then(|| format!("search {search}, resolves {resolves}")))
}
