//! Zones as gvproxy's REST interface and its configuration file write them.

use nitrotap_core::gateway::dns::{Record, Zone};
use serde::{Deserialize, Serialize};
use std::net::{AddrParseError, IpAddr};

/// A zone. Field names of requests are taken in the case of the REST interface and in that of the configuration file.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ZoneJson {
    #[serde(rename = "Name", alias = "name", default)]
    name: String,
    #[serde(rename = "Records", alias = "records", default)]
    records: Option<Vec<RecordJson>>,
    /// Empty if there is none.
    #[serde(rename = "DefaultIP", alias = "defaultIP", alias = "defaultIp", alias = "defaultip", default)]
    default_ip: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct RecordJson {
    #[serde(rename = "Name", alias = "name", default)]
    name: String,
    #[serde(rename = "IP", alias = "ip", alias = "Ip", default)]
    ip: Option<String>,
    #[serde(rename = "Regexp", alias = "regexp", default, skip_serializing_if = "Option::is_none")]
    regexp: Option<String>,
}

/// A zone that has the form of one, and an address that has not.
#[derive(Debug, thiserror::Error)]
#[error("{what} of {name:?}: {address:?} is no IP address: {cause}")]
pub(crate) struct ZoneJsonError {
    what: &'static str,
    name: String,
    address: String,
    cause: AddrParseError,
}

impl From<&Zone> for ZoneJson {
    fn from(zone: &Zone) -> Self {
        let record = |record: &Record| RecordJson {
            name: record.name.clone(),
            ip: Some(record.ip.to_string()),
            regexp: record.regexp.clone(),
        };
        Self {
            name: zone.name.clone(),
            records: Some(zone.records.iter().map(record).collect()),
            default_ip: Some(zone.default_ip.map(|ip| ip.to_string()).unwrap_or_default()),
        }
    }
}

impl TryFrom<ZoneJson> for Zone {
    type Error = ZoneJsonError;

    fn try_from(json: ZoneJson) -> Result<Self, ZoneJsonError> {
        let default_ip = json.default_ip.filter(|ip| !ip.is_empty());
        let default_ip = default_ip.map(|ip| address("default address", &json.name, ip)).transpose()?;
        let record = |record: RecordJson| {
            Ok(Record {
                ip: address("record", &record.name, record.ip.unwrap_or_default())?,
                name: record.name,
                regexp: record.regexp.filter(|regexp| !regexp.is_empty()),
            })
        };
        let records = json.records.unwrap_or_default().into_iter().map(record).collect::<Result<_, _>>()?;
        Ok(Self { name: json.name, records, default_ip })
    }
}

fn address(what: &'static str, name: &str, address: String) -> Result<IpAddr, ZoneJsonError> {
    let error = |cause| ZoneJsonError { what, name: name.to_owned(), address: address.clone(), cause };
    address.parse().map_err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(text: &str) -> Zone {
        serde_json::from_str::<ZoneJson>(text).unwrap().try_into().unwrap()
    }

    #[test]
    fn zones_are_written_and_read_as_gvproxy_does() {
        let text = r#"{"Name":"a.test.","Records":[{"Name":"x","IP":"10.0.0.1"},{"Name":"","IP":"10.0.0.2","Regexp":"^y"}],"DefaultIP":""}"#;
        let read = zone(text);
        assert_eq!(serde_json::to_string(&ZoneJson::from(&read)).unwrap(), text);
        let six = r#"{"Name":"s.","Records":[{"Name":"x","IP":"fd00::1"}],"DefaultIP":"fd00::2"}"#;
        assert_eq!(serde_json::to_string(&ZoneJson::from(&zone(six))).unwrap(), six);
        let lower =
            r#"{"name":"a.test.","records":[{"name":"x","ip":"10.0.0.1"},{"ip":"10.0.0.2","regexp":"^y"}],"more":1}"#;
        assert_eq!(zone(lower), read);
        let old = r#"{"Name":"b.","Records":null,"DefaultIP":"10.0.0.9"}"#;
        assert_eq!(zone(old), Zone { name: "b.".to_owned(), records: vec![], default_ip: Some([10, 0, 0, 9].into()) });
        assert_eq!(
            zone(r#"{"Name":"c.","Records":[{"Name":"n","IP":"10.0.0.1","Regexp":null}]}"#).records[0].regexp,
            None
        );
    }

    #[test]
    fn an_address_that_is_none_is_told() {
        for (text, told) in [
            (r#"{"Name":"a.","DefaultIP":"1.2.3"}"#, r#"default address of "a.": "1.2.3" is no IP address"#),
            (r#"{"Name":"a.","Records":[{"Name":"x"}]}"#, r#"record of "x": "" is no IP address"#),
        ] {
            let json: ZoneJson = serde_json::from_str(text).unwrap();
            let error = Zone::try_from(json).unwrap_err().to_string();
            assert!(error.starts_with(told), "{error}");
        }
    }
}
