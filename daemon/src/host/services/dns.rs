//! Zones of the gateway's own name server, as the REST interface shows and takes them.

use super::{answer::Answer, json};
use serde::Serialize;
use std::{future::Future, net::IpAddr, pin::Pin};

/// Names that the gateway answers itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Zone {
    /// A domain with its dot at the end, such as `containers.internal.`.
    pub(crate) name: String,
    /// The first that fits decides.
    pub(crate) records: Vec<Record>,
    /// The address of all other names in the zone; without one they do not exist.
    pub(crate) default_ip: Option<IpAddr>,
}

/// A name, or all names that an expression fits, and their address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// Without the zone; empty if `regexp` is there.
    pub(crate) name: String,
    pub(crate) ip: Option<IpAddr>,
    pub(crate) regexp: Option<String>,
}

/// What the name server does for the REST interface.
pub(crate) trait Zones: Send + Sync {
    /// All zones in their order.
    fn zones(&self) -> Pin<Box<dyn Future<Output = Vec<Zone>> + Send + '_>>;

    /// Adds a zone. If one of this name exists, the new records come before its own, and its default address is replaced.
    ///
    /// The error is for the client: an expression that is none, or too much of anything.
    fn add_zone(&self, zone: Zone) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>>;
}

/// `/services/dns/all`
pub(super) async fn all(zones: &dyn Zones) -> Answer {
    let zones = zones.zones().await;
    Answer::json(&zones.iter().map(ZoneJson::from).collect::<Vec<_>>())
}

/// `/services/dns/add`
pub(super) async fn add(zones: &dyn Zones, body: &[u8]) -> Answer {
    let zone = match from_json(body) {
        Ok(zone) => zone,
        Err(error) => return Answer::bad_request(error),
    };
    match zones.add_zone(zone).await {
        Ok(()) => Answer::done(),
        Err(error) => Answer::bad_request(error),
    }
}

fn from_json(body: &[u8]) -> Result<Zone, String> {
    let zone = json::read(body, "Zone")?;
    let record = |record: json::Object| {
        Ok(Record {
            name: record.string("Name")?.to_owned(),
            ip: address(record.string("IP")?)?,
            regexp: Some(record.string("Regexp")?.to_owned()).filter(|text| !text.is_empty()),
        })
    };
    Ok(Zone {
        name: zone.string("Name")?.to_owned(),
        records: zone.objects("Records", "Record")?.into_iter().map(record).collect::<Result<_, String>>()?,
        default_ip: address(zone.string("DefaultIP")?)?,
    })
}

fn address(text: &str) -> Result<Option<IpAddr>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| format!("invalid IP address: {text}"))
}

/// A zone as gvproxy 0.8.1 writes it, with a `Regexp` in each record; later versions leave out one that is null.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ZoneJson<'a> {
    name: &'a str,
    /// Go's nil slice is null.
    records: Option<Vec<RecordJson<'a>>>,
    #[serde(rename = "DefaultIP")]
    default_ip: String,
}

#[derive(Serialize)]
struct RecordJson<'a> {
    #[serde(rename = "Name")]
    name: &'a str,
    #[serde(rename = "IP")]
    ip: String,
    #[serde(rename = "Regexp")]
    regexp: Option<&'a str>,
}

impl<'a> From<&'a Zone> for ZoneJson<'a> {
    fn from(zone: &'a Zone) -> Self {
        let records: Vec<_> = zone.records.iter().map(Into::into).collect();
        let records = Some(records).filter(|records| !records.is_empty());
        Self { name: &zone.name, records, default_ip: text(zone.default_ip) }
    }
}

impl<'a> From<&'a Record> for RecordJson<'a> {
    fn from(record: &'a Record) -> Self {
        Self { name: &record.name, ip: text(record.ip), regexp: record.regexp.as_deref() }
    }
}

fn text(ip: Option<IpAddr>) -> String {
    ip.map(|ip| ip.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_written_as_gvproxy_writes_them() {
        let zones = [
            r#"{"Name":"a.","Records":[{"Name":"g","IP":"10.0.0.1","Regexp":null},{"Name":"","IP":"10.0.0.3","Regexp":"^x.*"}],"DefaultIP":""}"#,
            r#"{"Name":"","Records":null,"DefaultIP":"fe80::1"}"#,
        ];
        for text in zones {
            let zone = from_json(text.as_bytes()).unwrap();
            assert_eq!(serde_json::to_string(&ZoneJson::from(&zone)).unwrap(), text);
        }
    }

    #[test]
    fn addresses_that_are_none_are_refused() {
        for (body, error) in [
            (r#"{"name":"n.","records":[{"ip":"10.0.0.2x"}]}"#, "invalid IP address: 10.0.0.2x"),
            (r#"{"defaultip":"x"}"#, "invalid IP address: x"),
            (r#"{"name":1}"#, "json: cannot unmarshal number into Go struct field Zone.Name of type string"),
        ] {
            assert_eq!(from_json(body.as_bytes()).unwrap_err(), error);
        }
    }
}
