//! The host's `/etc/hosts` (hosts(5)), which gvproxy consults too.

use std::{collections::BTreeMap, net::IpAddr};

/// Names in lower case with their addresses, in the order of the file.
///
/// Loopback addresses are left out: to an enclave they would mean itself.
pub(super) fn parse(text: &str) -> BTreeMap<String, Vec<IpAddr>> {
    let mut hosts: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_ascii_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
        if address.is_loopback() || address.is_unspecified() || address.is_multicast() {
            continue;
        }
        for name in words {
            let addresses = hosts.entry(name.trim_end_matches('.').to_ascii_lowercase()).or_default();
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_addresses_that_an_enclave_can_use() {
        let text = "127.0.0.1 localhost\n127.0.1.1 box\n10.0.0.7 Box.lan. box # 10.0.0.8 c\n\nfe00::0\tip6-localnet\n\
                    2001:db8::7 box\n10.0.0.7 box\nnonsense box\n#10.0.0.9 box\nff02::1 ip6-allnodes\n10.0.0.5\n";
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(
            parse(text),
            BTreeMap::from([
                ("box".to_owned(), vec![ip("10.0.0.7"), ip("2001:db8::7")]),
                ("box.lan".to_owned(), vec![ip("10.0.0.7")]),
                ("ip6-localnet".to_owned(), vec![ip("fe00::")]),
            ])
        );
    }
}
