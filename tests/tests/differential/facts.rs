//! What a gateway did, as text under a key.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Display, Formatter},
};

/// Stands for a fact that was not noted.
pub(crate) const NOTHING: &str = "(nothing)";

/// Facts in the order of their keys.
#[derive(Debug, Default)]
pub(crate) struct Facts(BTreeMap<String, String>);

impl Facts {
    /// Notes a fact; a key is used once.
    pub(crate) fn note(&mut self, key: &str, value: impl Display) {
        let value = value.to_string().replace('\n', "\\n");
        assert!(self.0.insert(key.to_owned(), value).is_none(), "{key} is noted twice");
    }

    pub(crate) fn get(&self, key: &str) -> &str {
        self.0.get(key).map_or(NOTHING, String::as_str)
    }

    /// Every key of either, with both values.
    pub(crate) fn compare<'a>(&'a self, other: &'a Self) -> Vec<(&'a str, &'a str, &'a str)> {
        let keys: BTreeSet<_> = self.0.keys().chain(other.0.keys()).collect();
        keys.into_iter().map(|key| (key.as_str(), self.get(key), other.get(key))).collect()
    }
}

impl Display for Facts {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(key, value)| writeln!(f, "{key}: {value}"))
    }
}
