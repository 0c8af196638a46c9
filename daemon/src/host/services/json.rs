//! JSON as Go reads and writes it.

use crate::host::control::{Mac, Stats};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::fmt::Write as _;

/// A JSON object of a request. Names of fields are compared without regard to case, unknown fields are ignored, and so is
/// what comes behind the object.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Object {
    /// Go's name of the type, for errors.
    kind: &'static str,
    fields: Map<String, Value>,
}

/// Reads an object. The error is a text for the client.
pub(super) fn read(body: &[u8], kind: &'static str) -> Result<Object, String> {
    match serde_json::Deserializer::from_slice(body).into_iter::<Value>().next() {
        None => Err("EOF".to_owned()),
        Some(Err(error)) => Err(error.to_string()),
        Some(Ok(value)) => Object::new(value, kind),
    }
}

impl Object {
    fn new(value: Value, kind: &'static str) -> Result<Self, String> {
        match value {
            Value::Object(fields) => Ok(Self { kind, fields }),
            Value::Null => Ok(Self { kind, fields: Map::new() }),
            other @ (Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
                Err(format!("json: cannot unmarshal {} into Go value of type types.{kind}", name(&other)))
            }
        }
    }

    fn field(&self, field: &str) -> Option<&Value> {
        // The exact name wins, as the last one does in Go.
        let named = self
            .fields
            .get(field)
            .or_else(|| self.fields.iter().find(|(name, _)| name.eq_ignore_ascii_case(field)).map(|(_, value)| value));
        named.filter(|value| !value.is_null())
    }

    /// A field of type string; empty if it is not there.
    pub(super) fn string(&self, field: &str) -> Result<&str, String> {
        match self.field(field) {
            None => Ok(""),
            Some(Value::String(text)) => Ok(text),
            Some(other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_))) => {
                Err(format!(
                    "json: cannot unmarshal {} into Go struct field {}.{field} of type string",
                    name(other),
                    self.kind
                ))
            }
        }
    }

    /// The object as a type of ours.
    pub(super) fn into<T: DeserializeOwned>(self) -> Result<T, String> {
        serde_json::from_value(Value::Object(self.fields)).map_err(|error| error.to_string())
    }
}

const fn name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A hardware address in lower case, with colons.
pub(super) fn mac(mac: Mac) -> String {
    let mut text = String::with_capacity(17);
    for (i, byte) in mac.iter().enumerate() {
        let colon = if i == 0 { "" } else { ":" };
        let _ = write!(text, "{colon}{byte:02x}");
    }
    text
}

/// An object whose fields are sorted by name, as Go sorts those of a map.
pub(super) fn object(fields: impl IntoIterator<Item = (String, Value)>) -> Value {
    Value::Object(fields.into_iter().collect())
}

/// Counters whose names have dots become objects in objects, as gvproxy's are.
pub(super) fn nested(stats: &Stats) -> Value {
    let mut root = Map::new();
    for (name, value) in stats {
        let mut place = &mut root;
        let mut parts = name.split('.').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                place.insert(part.to_owned(), (*value).into());
                break;
            }
            let inner = place.entry(part).or_insert_with(|| Value::Object(Map::new()));
            if !inner.is_object() {
                *inner = Value::Object(Map::new());
            }
            let Some(inner) = inner.as_object_mut() else { break };
            place = inner;
        }
    }
    Value::Object(root)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    #[test]
    fn objects_are_read_as_go_reads_them() {
        let object = read(br#"{"LOCAL":":1","x":[1],"remote":null} trailing"#, "ExposeRequest").unwrap();
        assert_eq!((object.string("local"), object.string("remote")), (Ok(":1"), Ok("")));
        assert_eq!(read(b"null", "ExposeRequest").unwrap().string("local"), Ok(""));
    }

    #[test]
    fn wrong_types_are_named_as_go_names_them() {
        assert_eq!(read(b"", "ExposeRequest").unwrap_err(), "EOF");
        assert_eq!(
            read(b"[]", "ExposeRequest").unwrap_err(),
            "json: cannot unmarshal array into Go value of type types.ExposeRequest"
        );
        assert_eq!(
            read(br#"{"local":1}"#, "ExposeRequest").unwrap().string("local").unwrap_err(),
            "json: cannot unmarshal number into Go struct field ExposeRequest.local of type string"
        );
    }

    #[test]
    fn counters_nest_at_dots_and_come_sorted() {
        let stats = [("TCP.Open", 1), ("BytesSent", 2), ("TCP.A.B", 3), ("BytesSent.Odd", 4)];
        let stats = stats.map(|(name, value)| (name.to_owned(), value)).into();
        assert_eq!(nested(&stats).to_string(), r#"{"BytesSent":{"Odd":4},"TCP":{"A":{"B":3},"Open":1}}"#);
    }

    #[test]
    fn hardware_addresses_are_lower_case_with_colons() {
        assert_eq!(mac([0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xdd]), "5a:94:ef:e4:0c:dd");
    }

    quickcheck! {
        /// Whatever comes, there is an answer.
        fn any_bytes_are_an_object_or_an_error(body: Vec<u8>) -> bool {
            read(&body, "Zone").map_or_else(|error| !error.is_empty(), |object| object.string("Name").is_ok() || !object.fields.is_empty())
        }
    }
}
