//! `/services/dns/*`: zones of the gateway's own name server.

use super::{answer::Answer, json};
use crate::host::dns::{DnsHandle, ZoneJson};
use nitrotap_core::gateway::dns::Zone;

/// `/services/dns/all`, as gvproxy writes it since 0.8.3: a record without an expression has no `Regexp`.
pub(super) async fn all(names: &DnsHandle) -> Answer {
    match names.zones().await {
        Ok(zones) => Answer::json(&zones.iter().map(ZoneJson::from).collect::<Vec<_>>()),
        Err(gone) => Answer::failed(gone),
    }
}

/// `/services/dns/add`
pub(super) async fn add(names: &DnsHandle, body: &[u8]) -> Answer {
    let zone = match read(body) {
        Ok(zone) => zone,
        Err(error) => return Answer::bad_request(error),
    };
    match names.add_zone(zone).await {
        Ok(Ok(())) => Answer::done(),
        Ok(Err(error)) => Answer::bad_request(error),
        Err(gone) => Answer::failed(gone),
    }
}

fn read(body: &[u8]) -> Result<Zone, String> {
    json::read(body, "Zone")?
        .into::<ZoneJson>()?
        .try_into()
        .map_err(|error: crate::host::dns::ZoneJsonError| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_a_zone_or_a_reason_why_not() {
        let zone = read(br#"{"name":"a.","records":[{"name":"g","ip":"10.0.0.1"}]} trailing"#).unwrap();
        assert_eq!((zone.name.as_str(), zone.records.len()), ("a.", 1));
        for (body, words) in [
            ("", "EOF"),
            ("[]", "json: cannot unmarshal array into Go value of type types.Zone"),
            (r#"{"name":1}"#, "invalid type"),
            (r#"{"name":"n.","records":[{"name":"x","ip":"10.0.0.2x"}]}"#, "10.0.0.2x"),
            (r#"{"defaultIP":"fe80::x"}"#, "fe80::x"),
        ] {
            let error = read(body.as_bytes()).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
